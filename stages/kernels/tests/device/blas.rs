//! cuBLASLt's products on cubecl's buffers, against f64.

use half::f16;
use qpipe_kernels::{BlasError, Dtype, Gemm, Operands, Second, cublaslt, gemm, gemm_f32};

use super::{DTYPES, Draws, Shared, alone, client, download, rounded, timed, told, upload};

/// A device and the library; without one of them it is said what is skipped.
fn library(test: &str) -> Option<Shared> {
    is_there(test).then(|| client(test))?
}

fn is_there(test: &str) -> bool {
    match cublaslt() {
        Ok((version, path)) => eprintln!("cuBLASLt {version} of {}", path.display()),
        Err(error) => {
            eprintln!("skipped: {test}: {error}");
            return false;
        }
    }
    true
}

fn drawn(len: usize, seed: u64, dtype: Dtype) -> Vec<f32> {
    let mut draws = Draws(seed);
    rounded(&(0..len).map(|_| draws.normal()).collect::<Vec<_>>(), dtype)
}

#[test]
fn products_are_those_of_the_rows() {
    let Some(client) = library("products_are_those_of_the_rows") else { return };
    for dtype in DTYPES {
        for result in [dtype, Dtype::F32] {
            for shape in [[9, 16, 32], [100, 576, 1536], [513, 192, 576], [31, 1000, 72]] {
                let [rows, out, inner] = shape;
                let (x, w) = (drawn(rows * inner, 1, dtype), drawn(out * inner, 2, dtype));
                let product = Gemm::linear(shape, Operands::Float(dtype, result));
                let (x_on, w_on) = (upload(&client, &x, dtype), upload(&client, &w, dtype));
                let y = gemm(&client, &x_on, &w_on, product).unwrap();
                let y = download(&client, &y, rows * out, result);
                for (i, got) in y.iter().enumerate() {
                    let pairs = || x[i / out * inner..][..inner].iter().zip(&w[i % out * inner..][..inner]);
                    let exact: f64 = pairs().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let scale: f64 = pairs().map(|(a, b)| f64::from(a * b).abs()).sum();
                    let ulp = [0.0, 2f64.powi(-11), 2f64.powi(-8)][result as usize];
                    // sums in f32; TF32 would be off by a thousandth
                    let allowed = exact.abs() * ulp + scale * 2e-6;
                    let error = (f64::from(*got) - exact).abs();
                    assert!(error <= allowed, "{dtype:?} to {result:?}, {shape:?} {i}: {got} {exact}");
                }
            }
        }
    }
}

/// f32 by parts of TF32: nearly as near as sums in f32 are.
#[test]
fn f32_products_by_parts_are_those_of_f32() {
    let Some(client) = library("f32_products_by_parts_are_those_of_f32") else { return };
    for shape in [[256, 16, 32], [300, 576, 1536], [513, 193, 576], [1000, 37, 72]] {
        let [rows, out, inner] = shape;
        let (mut x, w) = (drawn(rows * inner, 1, Dtype::F32), drawn(out * inner, 2, Dtype::F32));
        // of all magnitudes
        x.iter_mut().enumerate().for_each(|(i, v)| *v *= 10f32.powi(i as i32 % 13 - 6));
        let (x_on, w_on) = (upload(&client, &x, Dtype::F32), upload(&client, &w, Dtype::F32));
        let mut worst = 0.0f64;
        let y = gemm_f32(&client, &x_on, &w_on, shape).unwrap();
        let y = download(&client, &y, rows * out, Dtype::F32);
        for (i, got) in y.iter().enumerate() {
            let pairs = || x[i / out * inner..][..inner].iter().zip(&w[i % out * inner..][..inner]);
            let exact: f64 = pairs().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let scale: f64 = pairs().map(|(a, b)| f64::from(a * b).abs()).sum();
            let error = (f64::from(*got) - exact).abs();
            // tensor cores cut sums off after every eight products; TF32 alone would be off by 3e-4
            let allowed = scale * ((3 * inner / 8) as f64 * 2f64.powi(-24) + 2f64.powi(-21));
            assert!(error <= allowed, "{shape:?} {i}: {got} {exact}, {:.1e}", error / scale);
            worst = worst.max(error / scale);
        }
        eprintln!("f32 by parts, {shape:?}: off by {worst:.1e} of the sum of magnitudes at most");
    }
}

#[test]
fn int8_products_are_exact() {
    let Some(client) = library("int8_products_are_exact") else { return };
    for [rows, out, inner] in [[9, 16, 32], [100, 576, 1536], [513, 192, 576]] {
        let mut draws = Draws(rows as u64);
        let mut codes =
            |len: usize| -> Vec<i8> { (0..len).map(|_| (draws.unit() * 255.0 - 127.0) as i8).collect() };
        let (x, w) = (codes(rows * inner), codes(out * inner));
        let on = |codes: &[i8]| client.create_from_slice(bytemuck::cast_slice(codes));
        let y = gemm(&client, &on(&x), &on(&w), Gemm::linear([rows, out, inner], Operands::Int8)).unwrap();
        let bytes = client.read_one(y).unwrap();
        let got: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        for (i, got) in got.iter().take(rows * out).enumerate() {
            let pairs = x[i / out * inner..][..inner].iter().zip(&w[i % out * inner..][..inner]);
            let exact: i32 = pairs.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
            assert_eq!(*got, exact, "{rows}x{out}x{inner} {i}");
        }
    }
}

/// As attention mixes values: a batch, the second operand the other way round, rows with gaps.
#[test]
fn batches_and_gaps_are_kept() {
    let Some(client) = library("batches_and_gaps_are_kept") else { return };
    let (batch, rows, out, inner, capacity) = (3, 24, 64, 40, 56);
    let x = drawn(batch * rows * capacity, 1, Dtype::F16);
    let w = drawn(batch * capacity * out, 2, Dtype::F16);
    let product = Gemm {
        rows,
        out,
        inner,
        operands: Operands::Float(Dtype::F16, Dtype::F32),
        second: Second::InnerOut,
        batch,
        row_strides: [capacity, out, out],
        batch_strides: [rows * capacity, capacity * out, rows * out],
    };
    let (x_on, w_on) = (upload(&client, &x, Dtype::F16), upload(&client, &w, Dtype::F16));
    let y = gemm(&client, &x_on, &w_on, product).unwrap();
    let y = download(&client, &y, batch * rows * out, Dtype::F32);
    for (i, got) in y.iter().enumerate() {
        let (b, row, column) = (i / out / rows, i / out % rows, i % out);
        let exact: f64 = (0..inner)
            .map(|k| {
                let (a, b) = (x[(b * rows + row) * capacity + k], w[(b * capacity + k) * out + column]);
                f64::from(a) * f64::from(b)
            })
            .sum();
        assert!((f64::from(*got) - exact).abs() <= 1e-4 * exact.abs().max(1.0), "{i}: {got} {exact}");
    }
}

#[test]
fn what_it_has_no_algorithm_for_is_an_error() {
    let Some(client) = library("what_it_has_no_algorithm_for_is_an_error") else { return };
    let some = client.create_from_slice(&[0; 4096]);
    let refused = gemm(&client, &some, &some, Gemm::linear([16, 16, 7], Operands::Int8));
    assert!(matches!(refused, Err(BlasError::NoAlgorithm(_) | BlasError::Status { .. })), "{refused:?}");
}

/// A recorded graph runs the product again, on what lies in the buffers then.
#[test]
fn a_graph_replays_it() {
    let Some((client, _guard)) = alone("a_graph_replays_it").filter(|_| is_there("a_graph_replays_it"))
    else {
        return;
    };
    let ones = vec![f16::ONE; 64 * 64];
    let (x, w) =
        (client.create_from_slice(bytemuck::cast_slice(&ones)), upload(&client, &[1.0; 4096], Dtype::F16));
    let product = Gemm::linear([64, 64, 64], Operands::Float(Dtype::F16, Dtype::F32));
    let y = gemm(&client, &x, &w, product).unwrap();
    client.graph_prepare().unwrap();
    qpipe_kernels::gemm_into(&client, [&x, &w, &y], product).unwrap();
    client.start_capture().unwrap();
    qpipe_kernels::gemm_into(&client, [&x, &w, &y], product).unwrap();
    let graph = client.stop_capture().unwrap();
    let twos = vec![f16::from_f32(2.0); 64 * 64];
    client.write(&x, cubecl::bytes::Bytes::from_bytes_vec(bytemuck::cast_slice(&twos).to_vec()));
    // SAFETY: the buffers of the recording live on
    #[allow(unsafe_code, reason = "see above")]
    unsafe {
        graph.replay().unwrap();
    }
    assert_eq!(download(&client, &y, 64 * 64, Dtype::F32), vec![128.0; 64 * 64]);
}

#[test]
#[ignore = "measures"]
fn blas_figures() {
    let Some(client) = library("blas_figures") else { return };
    let float = |dtype| Operands::Float(dtype, dtype);
    let cases = [
        ([8192, 8192, 8192], float(Dtype::Bf16)),
        ([4096, 8192, 2048], float(Dtype::Bf16)),
        ([4096, 2048, 8192], float(Dtype::Bf16)),
        ([512, 14336, 4096], float(Dtype::Bf16)),
        ([16, 14336, 4096], float(Dtype::Bf16)),
        ([512, 14336, 4096], Operands::Int8),
        ([8192, 1536, 576], float(Dtype::F32)),
        ([8192, 576, 1536], float(Dtype::F32)),
        ([8192, 576, 576], float(Dtype::F32)),
        ([8192, 49152, 576], float(Dtype::F32)),
        ([8192, 1536, 576], float(Dtype::Bf16)),
    ];
    for shape in [[8192, 1536, 576], [8192, 576, 1536], [8192, 49152, 576], [4096, 8192, 2048]] {
        let [rows, out, inner] = shape;
        let filled = |len: usize| upload(&client, &drawn(len, 3, Dtype::F32), Dtype::F32);
        let (x, w) = (filled(rows * inner), filled(out * inner));
        let t = timed(&client, 4, |_| drop(gemm_f32(&client, &x, &w, shape).unwrap()));
        told(&format!("{shape:?} f32 by parts; 2·m·n·k as bytes"), t, 2 * rows * out * inner);
    }
    for (shape, operands) in cases {
        let [rows, out, inner] = shape;
        let size = if operands == Operands::Int8 { 1 } else { 4 };
        // not zeros: power, and with it the clock, depends on what is multiplied
        let draws = drawn(1 << 20, 3, Dtype::F32);
        let some: Vec<u8> = match operands {
            Operands::Float(Dtype::F32, _) | Operands::Int8 => bytemuck::cast_slice(&draws).to_vec(),
            _ => draws.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        };
        let filled = |bytes: usize| {
            let bytes: Vec<u8> = some.iter().copied().cycle().take(bytes).collect();
            client.create_from_slice(&bytes)
        };
        let (x, w) = (filled(rows * inner * size), filled(out * inner * size));
        let product = Gemm::linear(shape, operands);
        let clock = std::time::Instant::now();
        let y = gemm(&client, &x, &w, product).unwrap();
        cubecl::future::block_on(client.sync()).unwrap();
        let first = clock.elapsed();
        let t = timed(&client, 4, |_| qpipe_kernels::gemm_into(&client, [&x, &w, &y], product).unwrap());
        told(
            &format!("{shape:?} {operands:?}, first {first:?}; 2·m·n·k as bytes"),
            t,
            2 * rows * out * inner,
        );
    }
}
