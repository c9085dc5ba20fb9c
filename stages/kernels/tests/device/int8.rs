//! int8 against the CPU's codec, over a grid of shapes.

use qpipe_codecs::{OutlierThreshold, Rounding};
use qpipe_kernels::{
    Codes, Dtype, Gemm, Int8Weight, MOST_ROWS, Operands, cublaslt, dequantize_int8, gemm, join_int8,
    multiply_int8, quantize_activations,
};

use super::{DTYPES, Draws, client, download, rounded, timed, told, upload};

fn rounding(dtype: Dtype) -> Rounding {
    [Rounding::None, Rounding::F16, Rounding::Bf16][dtype as usize]
}

#[test]
fn llm_int8_is_the_codecs() {
    let Some(client) = client("llm_int8_is_the_codecs") else { return };
    for dtype in DTYPES {
        for [rows, out, inner] in
            [[1, 1, 16], [1, 33, 576], [3, 64, 2048], [8, 100, 4096], [40, 48, 576], [513, 64, 2048]]
        {
            for threshold in [OutlierThreshold::Off, OutlierThreshold::AtLeast(6.0)] {
                let mut draws = Draws((rows * out) as u64);
                let mut x: Vec<f32> = (0..rows * inner).map(|_| draws.normal()).collect();
                x.iter_mut().skip(5).step_by(inner).for_each(|v| *v *= 30.0);
                let x = rounded(&x, dtype);
                let codes: Vec<i8> = (0..out * inner).map(|_| (draws.normal() * 40.0) as i8).collect();
                let scb: Vec<f32> = (0..out).map(|_| 0.1 + draws.unit()).collect();
                let mut expected = vec![0.0; rows * out];
                qpipe_codecs::int8_linear(
                    &x,
                    rows,
                    inner,
                    &codes,
                    &scb,
                    threshold,
                    rounding(dtype),
                    &mut expected,
                )
                .unwrap();
                let on = upload(&client, &x, dtype);
                let bytes: Vec<u8> = codes.iter().map(|c| c.cast_unsigned()).collect();
                let (codes_on, scb_on) =
                    (client.create_from_slice(&bytes), upload(&client, &scb, Dtype::F32));
                let weight = Int8Weight { codes: &codes_on, scb: &scb_on, out, inner };
                let limit = match threshold {
                    OutlierThreshold::Off => None,
                    OutlierThreshold::AtLeast(limit) => Some(limit),
                };
                // many rows once without the library, too
                let is_narrow = rows > MOST_ROWS && rows != 40;
                let form = if is_narrow { Codes::Byte } else { Codes::Half };
                let given = quantize_activations(&client, &on, [rows, inner], limit, dtype, form).unwrap();
                let of_codec = qpipe_codecs::quantize_activations(&x, rows, inner, threshold).unwrap();
                let case = format!("{dtype:?} {rows}x{out}x{inner} {threshold:?}");
                assert_eq!(download(&client, &given.sca, rows, Dtype::F32), of_codec.sca, "scales, {case}");
                let codes_of_x: Vec<f32> = if is_narrow {
                    let bytes = client.read_one(given.codes.clone()).unwrap();
                    bytes.iter().map(|code| f32::from(code.cast_signed())).collect()
                } else {
                    download(&client, &given.codes, rows * inner, Dtype::F16)
                };
                let differ: Vec<(usize, f32, i8, f32)> = (0..rows * inner)
                    .filter(|i| codes_of_x[*i].to_bits() != (f32::from(of_codec.codes[*i]) + 0.0).to_bits())
                    .map(|i| (i, codes_of_x[i], of_codec.codes[i], x[i]))
                    .collect();
                assert_eq!(differ, [], "codes, {case}");
                let y = if is_narrow {
                    if let Err(error) = cublaslt() {
                        eprintln!("skipped: {case}: {error}");
                        continue;
                    }
                    let shape = Gemm::linear([rows, out, inner], Operands::Int8);
                    let sums = gemm(&client, &given.codes, &codes_on, shape).unwrap();
                    join_int8(&client, &sums, &given, weight, dtype, Dtype::F32)
                } else {
                    multiply_int8(&client, &given, weight, dtype, Dtype::F32).unwrap()
                };
                let y = download(&client, &y, rows * out, Dtype::F32);
                for (i, (got, expected)) in y.iter().zip(&expected).enumerate() {
                    // a step of the coarser of f16 and the dtype, where a sum's order decided a rounding: of the parts,
                    // which are larger than what they add up to
                    let step = [1e-3, 1e-3, 8e-3][dtype as usize] * expected.abs().max(16.0);
                    let case = format!("{dtype:?} {rows}x{out}x{inner} {threshold:?} {i}: {got} {expected}");
                    assert!((got - expected).abs() <= step, "{case}");
                }
                let same = y.iter().zip(&expected).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
                assert!(
                    same * 10 >= y.len() * 9,
                    "{dtype:?} {rows}x{out}x{inner}: {same} of {} equal",
                    y.len()
                );
            }
        }
    }
}

#[test]
fn restored_int8_weights_are_the_codecs() {
    let Some(client) = client("restored_int8_weights_are_the_codecs") else { return };
    let (out, inner) = (7, 333);
    let mut draws = Draws(3);
    let codes: Vec<i8> = (0..out * inner).map(|_| (draws.normal() * 40.0) as i8).collect();
    let scb: Vec<f32> = (0..out).map(|_| draws.unit()).collect();
    let mut expected = vec![0.0; out * inner];
    qpipe_codecs::dequantize_int8(&codes, &scb, out, inner, &mut expected);
    let mut bytes: Vec<u8> = codes.iter().map(|c| c.cast_unsigned()).collect();
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let (codes, scb) = (client.create_from_slice(&bytes), upload(&client, &scb, Dtype::F32));
    let weight = Int8Weight { codes: &codes, scb: &scb, out, inner };
    for dtype in DTYPES {
        let got = download(&client, &dequantize_int8(&client, weight, dtype), out * inner, dtype);
        let expected = rounded(&expected, dtype);
        let wrong = (0..got.len()).find(|i| got[*i].to_bits() != expected[*i].to_bits());
        assert_eq!(wrong.map(|i| (i, got[i], expected[i])), None, "{dtype:?}");
    }
}

/// A row with a value that is not finite and not an outlier gives NaN, as on the CPU; others are as they were.
#[test]
fn what_is_not_finite_gives_nan() {
    let Some(client) = client("what_is_not_finite_gives_nan") else { return };
    let (out, inner) = (8, 64);
    let codes = client.create_from_slice(&vec![3; out * inner]);
    let scb = upload(&client, &vec![1.0; out], Dtype::F32);
    let weight = Int8Weight { codes: &codes, scb: &scb, out, inner };
    for rows in [2, 12] {
        for (bad, threshold) in [(f32::NAN, None), (f32::NAN, Some(6.0)), (f32::INFINITY, None), (1e30, None)]
        {
            if rows > MOST_ROWS && cublaslt().is_err() {
                eprintln!("skipped: {rows} rows without cuBLASLt");
                continue;
            }
            let mut x = vec![0.5; rows * inner];
            x[inner + 3] = bad;
            let on = upload(&client, &x, Dtype::F32);
            let form = if rows > MOST_ROWS { Codes::Byte } else { Codes::Half };
            let given =
                quantize_activations(&client, &on, [rows, inner], threshold, Dtype::F32, form).unwrap();
            let y = if rows > MOST_ROWS {
                let shape = Gemm::linear([rows, out, inner], Operands::Int8);
                let sums = gemm(&client, &given.codes, &codes, shape).unwrap();
                join_int8(&client, &sums, &given, weight, Dtype::F32, Dtype::F32)
            } else {
                multiply_int8(&client, &given, weight, Dtype::F32, Dtype::F32).unwrap()
            };
            let y = download(&client, &y, rows * out, Dtype::F32);
            let is_nan: Vec<bool> = y.chunks(out).map(|row| row.iter().all(|v| v.is_nan())).collect();
            let expected: Vec<bool> = (0..rows).map(|row| row == 1).collect();
            assert_eq!(is_nan, expected, "{bad} {threshold:?} {rows}");
        }
    }
}

#[test]
#[ignore = "measures"]
fn int8_figures() {
    let Some(client) = client("int8_figures") else { return };
    let (out, inner) = (14336, 4096);
    let mut draws = Draws(3);
    let some: Vec<u8> = (0..1 << 20).map(|_| ((draws.normal() * 40.0) as i8).cast_unsigned()).collect();
    let copies = 7;
    let codes: Vec<_> = (0..copies)
        .map(|_| {
            client.create_from_slice(&some.iter().copied().cycle().take(out * inner).collect::<Vec<_>>())
        })
        .collect();
    let scb = upload(&client, &vec![1.0; out], Dtype::F32);
    for rows in [1, 8, 512] {
        let mut x: Vec<f32> = (0..rows * inner).map(|_| draws.normal()).collect();
        x.iter_mut().skip(5).step_by(inner).for_each(|v| *v *= 30.0);
        let on = upload(&client, &x, Dtype::Bf16);
        for threshold in [None, Some(6.0)] {
            let t = timed(&client, copies, |i| {
                let weight = Int8Weight { codes: &codes[i], scb: &scb, out, inner };
                let form = if rows > MOST_ROWS { Codes::Byte } else { Codes::Half };
                let given =
                    quantize_activations(&client, &on, [rows, inner], threshold, Dtype::Bf16, form).unwrap();
                if rows > MOST_ROWS {
                    let sums = gemm(
                        &client,
                        &given.codes,
                        &codes[i],
                        Gemm::linear([rows, out, inner], Operands::Int8),
                    )
                    .unwrap();
                    drop(join_int8(&client, &sums, &given, weight, Dtype::Bf16, Dtype::Bf16));
                } else {
                    drop(multiply_int8(&client, &given, weight, Dtype::Bf16, Dtype::Bf16).unwrap());
                }
            });
            told(&format!("LLM.int8 {rows}x{out}x{inner} {threshold:?}"), t, out * inner);
        }
    }
}
