//! The reference's own vectors (`tests/golden`), on a device.

#[allow(dead_code, reason = "of what the codecs' tests read, a part")]
#[path = "../../../codecs/tests/golden/vectors.rs"]
mod vectors;

use qpipe_codecs::{FourBit, Rounding};
use qpipe_kernels::{
    Absmax, Codes, Dtype, Format4, Int8Weight, Nested, Packed4, dequantize4, double_quantize4, multiply_int8,
    quantize_activations, quantize4,
};
use vectors::{OFF_BY_ONE, Vectors, assert_same_bits, finite_cases, fp4_steps};

use super::{client, download, packed_bytes, plain_absmax, upload};

fn kernel_dtype(dtype: Rounding) -> Dtype {
    match dtype {
        Rounding::None => Dtype::F32,
        Rounding::F16 => Dtype::F16,
        Rounding::Bf16 => Dtype::Bf16,
    }
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

#[test]
fn four_bits() {
    let Some(client) = client("four_bits") else { return };
    let (mut off, mut compared, mut exact, mut restored) = (0, 0, 0, 0);
    for case in finite_cases() {
        let (len, dtype) = (case.weights.len(), kernel_dtype(case.dtype));
        let on = upload(&client, &case.weights, dtype);
        for config in &case.configs {
            let (key, what) = (config.key("packed"), format!("{} {}", case.name, config.prefix));
            let format = Format4 { kind: config.kind, block: config.block };
            let ours = quantize4(&client, &on, len, dtype, format);
            let absmax = case.vectors.float(&config.key("absmax"));
            let our_absmax = download(&client, plain_absmax(&ours), absmax.len(), Dtype::F32);
            assert_same_bits(&our_absmax, &absmax, &what);
            // the largest case stores a digest of its FP4 codes only
            if !case.vectors.has(&key) {
                continue;
            }
            let packed = case.vectors.u8(&key);
            let codes = packed_bytes(&client, &ours);
            if config.kind == FourBit::Nf4 {
                assert!(codes == packed, "{what}: codes");
                exact += len;
            } else {
                let steps = fp4_steps(&codes, &packed);
                assert!(steps.iter().all(|s| *s <= 1), "{what}: more than one step");
                off += steps.iter().filter(|s| **s == 1).count();
                compared += len;
            }
            // what the reference stored, restored here
            let theirs = Packed4 {
                codes: client.create_from_slice(&padded(packed)),
                absmax: Absmax::Plain(upload(&client, &absmax, Dtype::F32)),
                ..ours.clone()
            };
            if case.vectors.has(&config.key("deq")) {
                let got = download(&client, &dequantize4(&client, &theirs, dtype), len, dtype);
                assert_same_bits(&got, &case.vectors.float(&config.key("deq")), &what);
                restored += len;
            }
            let nested = config.key("dq.absmax");
            if !case.vectors.has(&nested) {
                continue;
            }
            let offset = case.vectors.float(&config.key("dq.offset"))[0];
            let Absmax::Nested(Nested { codes, .. }) = double_quantize4(&client, &theirs, offset).absmax
            else {
                panic!("it is nested");
            };
            let ours = client.read_one(codes).unwrap()[..absmax.len()].to_vec();
            assert_eq!(ours, case.vectors.u8(&nested), "{what}: codes of absmax");
        }
    }
    eprintln!(
        "nf4: 0 of {exact} codes differ; fp4: {off} of {compared} are one step off; {restored} weights restored"
    );
    assert!(exact > 500_000 && compared > 10_000 && restored > 10_000);
    assert!(f64::from(off as u32) <= OFF_BY_ONE * compared as f64, "{off} of {compared}");
}

#[test]
fn int8() {
    let Some(client) = client("int8") else { return };
    let (mut off, mut compared, mut same, mut outputs) = (0, 0, 0, 0);
    for name in ["int8_plain_5x96x64", "int8_outlier_7x576x192", "int8_onerow_1x128x64"] {
        let vectors = Vectors::read(&format!("{name}.safetensors"));
        let ([rows, inner], out) = ([vectors.shape("A")[0], vectors.shape("A")[1]], vectors.shape("W")[0]);
        let codes: Vec<u8> = vectors.u8("CB");
        let (codes, scb) =
            (client.create_from_slice(&padded(codes)), upload(&client, &vectors.float("SCB"), Dtype::F32));
        let weight = Int8Weight { codes: &codes, scb: &scb, out, inner };
        for (key, threshold) in [("t0", None), ("t6", Some(6.0))] {
            for (suffix, dtype) in [("out_f16", Dtype::F16), ("out_bf16", Dtype::Bf16)] {
                let what = format!("{name} {key} {suffix}");
                let x = upload(&client, &vectors.float("A"), dtype);
                let given = quantize_activations(&client, &x, [rows, inner], threshold, dtype, Codes::Half);
                let given = given.unwrap();
                // the reference's codes are those of its activations in f16
                if dtype == Dtype::F16 {
                    let sca = download(&client, &given.sca, rows, Dtype::F32);
                    assert_same_bits(&sca, &vectors.float(&format!("{key}.SCA")), &what);
                    let ours = download(&client, &given.codes, rows * inner, Dtype::F16);
                    let theirs = vectors.i8(&format!("{key}.CA"));
                    let steps = ours.iter().zip(&theirs).map(|(a, b)| (a - f32::from(*b)).abs());
                    assert!(steps.clone().all(|step| step <= 1.0), "{what}: more than one step");
                    off += steps.filter(|step| *step > 0.0).count();
                    compared += ours.len();
                }
                let y = multiply_int8(&client, &given, weight, dtype, dtype).unwrap();
                let y = download(&client, &y, rows * out, dtype);
                let expected = vectors.float(&format!("{key}.{suffix}"));
                let ulp = [0.0, 2f32.powi(-10), 2f32.powi(-7)][dtype as usize];
                for (i, (got, expected)) in y.iter().zip(&expected).enumerate() {
                    // a rounding that the order of a sum decided, of the parts or of both together
                    let allowed = 2.0 * ulp * expected.abs().max(1.0);
                    assert!((got - expected).abs() <= allowed, "{what} {i}: {got} {expected}");
                }
                same += y.iter().zip(&expected).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
                outputs += y.len();
            }
        }
    }
    eprintln!("int8: {off} of {compared} codes are one step off; {same} of {outputs} outputs are equal");
    assert!(off as f64 <= OFF_BY_ONE * compared as f64, "{off} of {compared}");
    assert!(same * 100 >= outputs * 95, "{same} of {outputs}");
}
