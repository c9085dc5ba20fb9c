//! int8 against the CPU's codec, over a grid of shapes.

use qpipe_codecs::{OutlierThreshold, Rounding};
use qpipe_kernels::{
    Codes, Dtype, Gemm, Int8Weight, MOST_ROWS, Operands, Widened, cublaslt, dequantize_int8, gemm, join_int8,
    multiply_int8, quantize_activations, widen,
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
                    join_int8(&client, &sums, &given, weight, dtype, Dtype::F32).unwrap()
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
        let got = download(&client, &dequantize_int8(&client, weight, dtype).unwrap(), out * inner, dtype);
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
                join_int8(&client, &sums, &given, weight, Dtype::F32, Dtype::F32).unwrap()
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

/// Shapes drawn at random, with any number of columns and with no rows at all, against the codec.
#[test]
fn drawn_shapes_are_the_codecs() {
    let Some(client) = client("drawn_shapes_are_the_codecs") else { return };
    let mut draws = Draws(11);
    for case in 0..80 {
        let mut below = |most: f32| (draws.unit() * most) as usize;
        let rows = if case % 10 == 0 { 0 } else { 1 + below([7.0, 70.0][case % 2]) };
        let (out, inner) = (1 + below(150.0), 1 + below(300.0));
        let dtype = DTYPES[case % 3];
        let threshold = [OutlierThreshold::AtLeast(6.0), OutlierThreshold::Off][case / 3 % 2];
        let limit = if let OutlierThreshold::AtLeast(limit) = threshold { Some(limit) } else { None };
        let mut x: Vec<f32> = (0..rows * inner).map(|_| draws.normal()).collect();
        x.iter_mut().skip(inner / 2).step_by(inner).for_each(|v| *v *= 30.0);
        let x = rounded(&x, dtype);
        let codes: Vec<i8> = (0..out * inner).map(|_| (draws.normal() * 40.0) as i8).collect();
        let scb: Vec<f32> = (0..out).map(|_| 0.1 + draws.unit()).collect();
        let mut expected = vec![0.0; rows * out];
        if rows > 0 {
            let round = rounding(dtype);
            qpipe_codecs::int8_linear(&x, rows, inner, &codes, &scb, threshold, round, &mut expected)
                .unwrap();
        }
        let mut bytes: Vec<u8> = codes.iter().map(|c| c.cast_unsigned()).collect();
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let (x_on, scb_on) = (upload(&client, &x, dtype), upload(&client, &scb, Dtype::F32));
        let width = inner.next_multiple_of(16);
        let x_on = widen(&client, &x_on, [rows, inner], width, Widened::Activations(dtype)).unwrap();
        let codes_on = client.create_from_slice(&bytes);
        let codes_on = widen(&client, &codes_on, [out, inner], width, Widened::Codes).unwrap();
        let weight = Int8Weight { codes: &codes_on, scb: &scb_on, out, inner: width };
        let mut forms = vec![Codes::Half];
        forms.extend((rows > 0 && cublaslt().is_ok()).then_some(Codes::Byte));
        for form in forms {
            let given = quantize_activations(&client, &x_on, [rows, width], limit, dtype, form).unwrap();
            let y = match form {
                Codes::Half => multiply_int8(&client, &given, weight, dtype, Dtype::F32).unwrap(),
                Codes::Byte => {
                    let shape = Gemm::linear([rows, out, width], Operands::Int8);
                    // some shapes are none of the library's; then the product is the other one
                    let Ok(sums) = gemm(&client, &given.codes, &codes_on, shape) else { continue };
                    join_int8(&client, &sums, &given, weight, dtype, Dtype::F32).unwrap()
                }
            };
            let y = download(&client, &y, rows * out, Dtype::F32);
            for (i, (got, expected)) in y.iter().zip(&expected).enumerate() {
                let step = [1e-3, 1e-3, 8e-3][dtype as usize] * expected.abs().max(16.0);
                let case = format!("{dtype:?} {rows}x{out}x{inner} {form:?} {threshold:?} {i}");
                assert!((got - expected).abs() <= step, "{case}: {got} {expected}");
            }
        }
    }
}

/// More than 2³¹ activations. Every row is one of two, so what the last ones give is known.
#[test]
fn more_than_two_to_the_31_activations_are_multiplied() {
    let Some(client) = client("more_than_two_to_the_31_activations_are_multiplied") else { return };
    if let Err(error) = cublaslt() {
        eprintln!("skipped: more than 2³¹ activations: {error}");
        return;
    }
    let (rows, out, inner) = ((1 << 19) + 64, 16, 4096);
    let mut draws = Draws(5);
    let pattern: Vec<f32> = rounded(&(0..16 * inner).map(|_| draws.normal()).collect::<Vec<_>>(), Dtype::F16);
    let bytes: Vec<u8> = pattern.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let copies: Vec<&[u8]> = vec![&bytes; rows / 16];
    let x = qpipe_kernels::upload(&client, &copies, rows * inner * 2).unwrap();
    let codes: Vec<i8> = (0..out * inner).map(|_| (draws.normal() * 40.0) as i8).collect();
    let scb = vec![1.0; out];
    let stored: Vec<u8> = codes.iter().map(|c| c.cast_unsigned()).collect();
    let (codes_on, scb_on) = (client.create_from_slice(&stored), upload(&client, &scb, Dtype::F32));
    let weight = Int8Weight { codes: &codes_on, scb: &scb_on, out, inner };
    let mut expected = vec![0.0; 16 * out];
    let threshold = OutlierThreshold::AtLeast(3.0);
    qpipe_codecs::int8_linear(&pattern, 16, inner, &codes, &scb, threshold, Rounding::F16, &mut expected)
        .unwrap();
    let given = quantize_activations(&client, &x, [rows, inner], Some(3.0), Dtype::F16, Codes::Byte).unwrap();
    let shape = Gemm::linear([rows, out, inner], Operands::Int8);
    let sums = gemm(&client, &given.codes, &codes_on, shape).unwrap();
    let y = join_int8(&client, &sums, &given, weight, Dtype::F16, Dtype::F32).unwrap();
    let y = download(&client, &y, rows * out, Dtype::F32);
    for (i, got) in y.iter().enumerate() {
        let wanted = expected[i % (16 * out)];
        assert!((got - wanted).abs() <= 1e-3 * wanted.abs().max(16.0), "{i}: {got} {wanted}");
    }
    let too_many = quantize_activations(&client, &x, [1 << 20, 4096], None, Dtype::F16, Codes::Byte);
    assert_eq!(too_many.err(), Some(qpipe_kernels::KernelError::Length { len: 1 << 32 }));
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
