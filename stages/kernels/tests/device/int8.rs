//! int8 against the CPU's codec, over a grid of shapes.

use qpipe_codecs::{OutlierThreshold, Rounding};
use qpipe_kernels::{
    Dtype, Int8Weight, MOST_ROWS, dequantize_int8, join_int8, multiply_int8, quantize_activations, widen_int8,
};

use super::{DTYPES, Draws, client, download, rounded, upload};

fn rounding(dtype: Dtype) -> Rounding {
    [Rounding::None, Rounding::F16, Rounding::Bf16][dtype as usize]
}

#[test]
fn llm_int8_is_the_codecs() {
    let Some(client) = client("llm_int8_is_the_codecs") else { return };
    for dtype in DTYPES {
        for [rows, out, inner] in [[1, 1, 16], [1, 33, 576], [3, 64, 2048], [8, 100, 4096], [40, 48, 576]] {
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
                let (limit, outliers) = match threshold {
                    OutlierThreshold::Off => (f32::INFINITY, false),
                    OutlierThreshold::AtLeast(limit) => (limit, true),
                };
                let given = quantize_activations(&client, &on, [rows, inner], limit, dtype).unwrap();
                let of_codec = qpipe_codecs::quantize_activations(&x, rows, inner, threshold).unwrap();
                let case = format!("{dtype:?} {rows}x{out}x{inner} {threshold:?}");
                assert_eq!(download(&client, &given.sca, rows, Dtype::F32), of_codec.sca, "scales, {case}");
                let codes_of_x = download(&client, &given.codes, rows * inner, Dtype::F16);
                let differ: Vec<(usize, f32, i8, f32)> = (0..rows * inner)
                    .filter(|i| codes_of_x[*i].to_bits() != (f32::from(of_codec.codes[*i]) + 0.0).to_bits())
                    .map(|i| (i, codes_of_x[i], of_codec.codes[i], x[i]))
                    .collect();
                assert_eq!(differ, [], "codes, {case}");
                let y = if rows <= MOST_ROWS {
                    multiply_int8(&client, &given, weight, outliers, dtype, Dtype::F32).unwrap()
                } else {
                    // the products on tensor cores, here on the host
                    let dot = |a: &[f32], b: &[f32]| -> Vec<f32> {
                        let row = |of: &[f32], i: usize| of[i * inner..][..inner].to_vec();
                        let pair = |i: usize| (row(a, i / out), row(b, i % out));
                        (0..rows * out)
                            .map(|i| {
                                let (a, b) = pair(i);
                                a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
                            })
                            .collect()
                    };
                    let len = out * inner;
                    let wide = download(&client, &widen_int8(&client, weight), len, Dtype::F16);
                    let restored = download(&client, &dequantize_int8(&client, weight, dtype), len, dtype);
                    let sums = dot(&download(&client, &given.codes, rows * inner, Dtype::F16), &wide);
                    let apart = dot(&download(&client, &given.outliers, rows * inner, dtype), &restored);
                    let parts = [&upload(&client, &sums, Dtype::F32), &upload(&client, &apart, Dtype::F32)];
                    join_int8(&client, parts, &given, weight, outliers, dtype, Dtype::F32)
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
