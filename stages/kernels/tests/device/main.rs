//! The kernels on a CUDA device against the CPU's codecs. Without a device every test says that it skips. The tests that
//! are ignored measure: `--ignored --nocapture --test-threads 1`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; these helpers stand outside its functions"
)]
#![expect(clippy::print_stderr, reason = "figures and what is skipped")]

mod blas;
mod golden;
mod int8;
mod layer;
mod transfer;

use std::io::Write;
use std::ops::Deref;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use cubecl::client::Client;
use cubecl::server::Handle;
use half::{bf16, f16};
use qpipe_codecs::{BlockSize, FourBit, Rounding};
use qpipe_kernels::{
    Absmax, Dtype, Format4, Nested, Packed4, Tiling, dequantize4, double_quantize4, multiply4,
    multiply4_batch, multiply4_tiled, quantize4,
};

/// Kept shared by tests, and alone by one that records a graph: what others allocate meanwhile would spoil the recording.
static DEVICE: RwLock<()> = RwLock::new(());

/// The device for a test.
struct Shared {
    client: Client,
    _guard: RwLockReadGuard<'static, ()>,
}

impl Deref for Shared {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The device for a test, which others share, or `None` after saying what is skipped.
fn client(test: &str) -> Option<Shared> {
    let guard = DEVICE.read().unwrap_or_else(PoisonError::into_inner);
    Some(Shared { client: opened(test)?, _guard: guard })
}

/// The device for a test alone.
fn alone(test: &str) -> Option<(Client, RwLockWriteGuard<'static, ()>)> {
    let guard = DEVICE.write().unwrap_or_else(PoisonError::into_inner);
    Some((opened(test)?, guard))
}

/// The first CUDA device, or `None` after saying what is skipped.
fn opened(test: &str) -> Option<Client> {
    let file = std::env::var_os("QPIPE_CUBLASLT").map(Into::into);
    qpipe_kernels::search_cublaslt(qpipe_kernels::Search { file, ..Default::default() });
    let found =
        std::panic::catch_unwind(|| cubecl::Device::Cuda(cubecl::device::CudaDevice { index: 0 }).client());
    if found.is_err() {
        let _ = writeln!(std::io::stderr(), "skipped: {test} needs a CUDA device");
    }
    found.ok()
}

struct Draws(u64);

impl Draws {
    /// Uniform in [0, 1).
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Roughly normal, of deviation 1.
    fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.unit()).sum::<f32>() * 1.414 - 4.242
    }
}

/// Weights with what is awkward in them: values at and beside thresholds, zero blocks, subnormals, an outlier.
fn weights(len: usize, kind: FourBit) -> Vec<f32> {
    let mut draws = Draws(len as u64 + 1);
    let mut w: Vec<f32> = (0..len).map(|_| draws.normal() * 0.05).collect();
    for (i, v) in w.iter_mut().enumerate() {
        match i / 256 % 7 {
            1 => *v = 0.0,
            2 if i % 3 == 0 => *v = 1e-40,
            3 => {
                let thresholds = kind.thresholds();
                let t = thresholds[i % thresholds.len()];
                *v = if i % 32 == 0 {
                    1.0
                } else {
                    f32::from_bits(t.to_bits().wrapping_add_signed(i as i32 % 3 - 1))
                };
            }
            4 if i % 97 == 0 => *v = -37.5,
            _ => {}
        }
    }
    w
}

fn rounded(values: &[f32], dtype: Dtype) -> Vec<f32> {
    let mut out = values.to_vec();
    qpipe_codecs::round_slice(
        &mut out,
        match dtype {
            Dtype::F32 => Rounding::None,
            Dtype::F16 => Rounding::F16,
            Dtype::Bf16 => Rounding::Bf16,
        },
    );
    out
}

fn upload(client: &Client, values: &[f32], dtype: Dtype) -> Handle {
    let mut bytes: Vec<u8> = match dtype {
        Dtype::F32 => bytemuck::cast_slice(values).to_vec(),
        Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    };
    bytes.resize(bytes.len().max(1).next_multiple_of(16), 0);
    client.create_from_slice(&bytes)
}

fn download(client: &Client, handle: &Handle, len: usize, dtype: Dtype) -> Vec<f32> {
    let bytes = client.read_one(handle.clone()).unwrap();
    let halves = || bytes.as_chunks::<2>().0.iter().take(len);
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().take(len).map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::Bf16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
    }
}

fn plain_absmax(packed: &Packed4) -> &Handle {
    match &packed.absmax {
        Absmax::Plain(values) => values,
        Absmax::Nested(_) => panic!("what is encoded has plain absmax values"),
    }
}

fn packed_bytes(client: &Client, packed: &Packed4) -> Vec<u8> {
    client.read_one(packed.codes.clone()).unwrap()[..packed.len.div_ceil(2)].to_vec()
}

fn format(kind: FourBit, block: u32) -> Format4 {
    Format4 { kind, block: BlockSize::try_from(block).unwrap() }
}

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];
const BLOCKS: [u32; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

#[test]
fn codes_and_absmax_are_the_codecs_bit_for_bit() {
    let Some(client) = client("codes_and_absmax_are_the_codecs_bit_for_bit") else { return };
    for kind in FourBit::ALL {
        for len in [1, 7, 63, 64, 2048, 9 * 4096 + 40, 100_003] {
            let raw = weights(len, kind);
            for dtype in DTYPES {
                let w = rounded(&raw, dtype);
                let on_device = upload(&client, &w, dtype);
                for block in BLOCKS {
                    let format = format(kind, block);
                    let expected = qpipe_codecs::quantize4(kind, &w, format.block).unwrap();
                    let packed = quantize4(&client, &on_device, len, dtype, format);
                    let absmax = download(&client, plain_absmax(&packed), expected.absmax.len(), Dtype::F32);
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    let case = format!("{kind} block {block} of {len} {dtype:?}");
                    assert_eq!(bits(&absmax), bits(&expected.absmax), "absmax, {case}");
                    let codes = packed_bytes(&client, &packed);
                    let differ = codes.iter().zip(&expected.packed).filter(|(a, b)| a != b).count();
                    assert_eq!(differ, 0, "bytes of codes that differ, {case}");
                }
            }
        }
    }
}

#[test]
fn restored_weights_are_the_codecs_bit_for_bit() {
    let Some(client) = client("restored_weights_are_the_codecs_bit_for_bit") else { return };
    for kind in FourBit::ALL {
        for len in [1, 63, 4096, 100_003] {
            let w = weights(len, kind);
            for block in BLOCKS {
                let format = format(kind, block);
                let expected = qpipe_codecs::quantize4(kind, &w, format.block).unwrap();
                let packed = quantize4(&client, &upload(&client, &w, Dtype::F32), len, Dtype::F32, format);
                let mut restored = vec![0.0; len];
                qpipe_codecs::dequantize4(
                    kind,
                    &expected.packed,
                    &expected.absmax,
                    format.block,
                    len,
                    &mut restored,
                );
                for dtype in DTYPES {
                    let expected = rounded(&restored, dtype);
                    let got = download(&client, &dequantize4(&client, &packed, dtype), len, dtype);
                    let wrong = (0..len).find(|i| got[*i].to_bits() != expected[*i].to_bits());
                    let pair = wrong.map(|i| (i, got[i], expected[i]));
                    assert_eq!(pair, None, "{kind} block {block} of {len} to {dtype:?}");
                }
            }
        }
    }
}

/// Codes of absmax values and what they restore, given the offset; also in smaller groups, as joined weights have them.
#[test]
fn double_quantization_is_the_codecs_bit_for_bit() {
    let Some(client) = client("double_quantization_is_the_codecs_bit_for_bit") else { return };
    for (len, block) in [(64, 64), (255 * 64, 64), (300 * 32 + 7, 32), (100_003, 64), (1 << 20, 128)] {
        for constant in [false, true] {
            let w = if constant { vec![0.25; len] } else { weights(len, FourBit::Nf4) };
            let format = format(FourBit::Nf4, block);
            let plain = qpipe_codecs::quantize4(FourBit::Nf4, &w, format.block).unwrap();
            let expected = qpipe_codecs::double_quantize(&plain.absmax);
            let packed = quantize4(&client, &upload(&client, &w, Dtype::F32), len, Dtype::F32, format);
            let nested = double_quantize4(&client, &packed, expected.offset);
            let Absmax::Nested(Nested { codes, table, group }) = nested.absmax.clone() else {
                panic!("it is nested");
            };
            let case = format!("{len} in blocks of {block}, constant {constant}");
            let blocks = plain.absmax.len();
            let got = client.read_one(codes.clone()).unwrap()[..blocks].to_vec();
            assert_eq!(got.iter().zip(&expected.codes).position(|(a, b)| a != b), None, "{case}");
            let groups = blocks.div_ceil(group);
            let values = download(&client, &table, 256 + 2 * groups, Dtype::F32);
            assert_eq!(values[..256], qpipe_codecs::dynamic_map()[..], "{case}");
            let pairs: Vec<[f32; 2]> = values[256..].as_chunks().0.to_vec();
            let wanted: Vec<[f32; 2]> =
                expected.nested_absmax.iter().map(|v| [*v, expected.offset]).collect();
            assert_eq!(pairs, wanted, "{case}");
            let absmax = qpipe_codecs::double_dequantize(&expected);
            let mut restored = vec![0.0; len];
            qpipe_codecs::dequantize4(FourBit::Nf4, &plain.packed, &absmax, format.block, len, &mut restored);
            let smaller: Vec<f32> =
                pairs.iter().flat_map(|pair| [*pair; 4]).take(blocks.div_ceil(64)).flatten().collect();
            let smaller = [qpipe_codecs::dynamic_map(), &smaller[..]].concat();
            let smaller = Nested { codes, table: upload(&client, &smaller, Dtype::F32), group: 64 };
            for absmax in [nested.absmax.clone(), Absmax::Nested(smaller)] {
                let packed = Packed4 { absmax, ..nested.clone() };
                let got = download(&client, &dequantize4(&client, &packed, Dtype::F32), len, Dtype::F32);
                let wrong = (0..len).find(|i| got[*i].to_bits() != restored[*i].to_bits());
                assert_eq!(wrong.map(|i| (i, got[i], restored[i])), None, "{case}");
            }
        }
    }
}

#[test]
fn a_block_that_is_not_finite_has_an_absmax_that_is_not() {
    let Some(client) = client("a_block_that_is_not_finite_has_an_absmax_that_is_not") else { return };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for block in BLOCKS {
            let mut w = weights(8192, FourBit::Nf4);
            w[5000] = bad;
            let handle = upload(&client, &w, Dtype::F32);
            let packed = quantize4(&client, &handle, w.len(), Dtype::F32, format(FourBit::Nf4, block));
            let absmax =
                download(&client, plain_absmax(&packed), w.len().div_ceil(block as usize), Dtype::F32);
            let found: Vec<usize> = (0..absmax.len()).filter(|i| !absmax[*i].is_finite()).collect();
            assert_eq!(found, [5000 / block as usize], "{bad} in blocks of {block}");
        }
    }
}

#[test]
fn products_are_those_of_the_restored_weights() {
    let Some(client) = client("products_are_those_of_the_restored_weights") else { return };
    for (out, inner) in [(1, 32), (33, 576), (1536, 576), (576, 1536), (7, 4096)] {
        for kind in FourBit::ALL {
            for block in [32, 64, 4096] {
                for dtype in DTYPES {
                    let format = format(kind, block);
                    let w = weights(out * inner, kind);
                    let packed =
                        quantize4(&client, &upload(&client, &w, Dtype::F32), w.len(), Dtype::F32, format);
                    // half of them with double quantization
                    let is_nested = (out + block as usize / 32).is_multiple_of(2);
                    let packed = if is_nested { double_quantize4(&client, &packed, 0.07) } else { packed };
                    let restored =
                        download(&client, &dequantize4(&client, &packed, Dtype::F32), w.len(), Dtype::F32);
                    let bias = weights(out, kind);
                    let bias_on = upload(&client, &bias, Dtype::F32);
                    for rows in [1, 2, 5, 8] {
                        // half of them with a bias
                        let is_biased = (rows + block as usize / 64) % 2 == 0;
                        let mut draws = Draws(rows as u64);
                        let x: Vec<f32> = (0..rows * inner).map(|_| draws.normal()).collect();
                        let x = rounded(&x, dtype);
                        let shape = [rows, out, inner];
                        let on = upload(&client, &x, dtype);
                        let products = [false, true].map(|pairs| {
                            let tiling = Tiling { pairs, ..Tiling::of(shape) };
                            let bias = is_biased.then_some(&bias_on);
                            let y = multiply4_tiled(&client, &on, &packed, bias, shape, [dtype; 2], tiling)
                                .unwrap();
                            download(&client, &y, rows * out, dtype)
                        });
                        assert_eq!(products[0], products[1], "one by one and in pairs");
                        for (i, got) in products[0].iter().enumerate() {
                            let (row, column) = (i / out, i % out);
                            let pairs =
                                || x[row * inner..][..inner].iter().zip(&restored[column * inner..][..inner]);
                            let exact: f64 = pairs().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                            let exact = exact + if is_biased { f64::from(bias[column]) } else { 0.0 };
                            let scale: f64 = pairs().map(|(a, b)| f64::from(a * b).abs()).sum();
                            let half_ulp = [0.0, 2f64.powi(-11), 2f64.powi(-8)][dtype as usize];
                            let allowed = exact.abs() * half_ulp + scale * 2e-6 + 1e-7;
                            let error = (f64::from(*got) - exact).abs();
                            assert!(
                                error <= allowed,
                                "{kind} {block} {dtype:?} {shape:?} {i}: {got} {exact}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_a_batch_are_those_of_the_rounded_levels() {
    let Some(client) = client("products_of_a_batch_are_those_of_the_rounded_levels") else { return };
    for (out, inner) in [(1, 64), (33, 576), (1536, 576), (576, 1536), (7, 4096)] {
        for kind in FourBit::ALL {
            for (block, dtype) in
                [(64, Dtype::Bf16), (64, Dtype::F16), (4096, Dtype::Bf16), (128, Dtype::F16)]
            {
                let format = format(kind, block);
                let w = weights(out * inner, kind);
                let packed =
                    quantize4(&client, &upload(&client, &w, Dtype::F32), w.len(), Dtype::F32, format);
                let stored = qpipe_codecs::quantize4(kind, &w, format.block).unwrap();
                let levels = rounded(kind.levels(), dtype);
                let restored: Vec<f64> = (0..w.len())
                    .map(|i| {
                        let code = stored.packed[i / 2] >> (4 * (1 - i % 2)) & 15;
                        f64::from(levels[usize::from(code)]) * f64::from(stored.absmax[i / block as usize])
                    })
                    .collect();
                let bias = weights(out, kind);
                let bias_on = upload(&client, &bias, Dtype::F32);
                for rows in [1, 7, 8, 16, 27, 33, 64] {
                    let x = rounded(&weights(rows * inner, kind), dtype);
                    let shape = [rows, out, inner];
                    let on = upload(&client, &x, dtype);
                    // half of them with a bias
                    let is_biased = rows % 2 == 1;
                    let given = is_biased.then_some(&bias_on);
                    let y = multiply4_batch(&client, &on, &packed, given, shape, [dtype; 2]).unwrap();
                    for (i, got) in download(&client, &y, rows * out, dtype).iter().enumerate() {
                        let (row, column) = (i / out, i % out);
                        let pairs =
                            || x[row * inner..][..inner].iter().zip(&restored[column * inner..][..inner]);
                        let exact: f64 = pairs().map(|(a, b)| f64::from(*a) * b).sum();
                        let exact = exact + if is_biased { f64::from(bias[column]) } else { 0.0 };
                        let scale: f64 = pairs().map(|(a, b)| (f64::from(*a) * b).abs()).sum();
                        let half_ulp = [0.0, 2f64.powi(-11), 2f64.powi(-8)][dtype as usize];
                        let allowed = exact.abs() * half_ulp + scale * 2e-6 + 1e-7;
                        let error = (f64::from(*got) - exact).abs();
                        assert!(error <= allowed, "{kind} {block} {dtype:?} {shape:?} {i}: {got} {exact}");
                    }
                }
            }
        }
    }
}

/// Median and extremes of microseconds per call, of several replays of a graph of all `calls`; wall clock between syncs.
fn timed(client: &Client, calls: usize, mut call: impl FnMut(usize)) -> [f64; 3] {
    let wait = || cubecl::future::block_on(client.sync()).unwrap();
    client.graph_prepare().unwrap();
    for _ in 0..3 {
        (0..calls).for_each(&mut call);
    }
    client.start_capture().unwrap();
    (0..calls).for_each(&mut call);
    let graph = client.stop_capture().unwrap();
    wait();
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let clock = Instant::now();
            for _ in 0..4 {
                // SAFETY: every buffer of the capture lives until the end of the measurement
                #[allow(unsafe_code, reason = "see above")]
                unsafe {
                    graph.replay().unwrap();
                }
            }
            wait();
            clock.elapsed().as_secs_f64() * 1e6 / (4 * calls) as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    [times[7], times[0], times[14]]
}

fn told(what: &str, [median, least, most]: [f64; 3], bytes: usize) {
    let rate = bytes as f64 / median / 1e6;
    eprintln!("{what}: {median:.2} µs ({least:.2} to {most:.2}), {rate:.3} TB/s");
}

#[test]
#[ignore = "measures"]
fn figures() {
    let Some(client) = client("figures") else { return };
    eprintln!("{}", client.name());
    let format = format(FourBit::Nf4, 64);
    for [out, inner] in [[14336, 4096], [4096, 14336], [1536, 576]] {
        let len = out * inner;
        // more than the L2 cache holds, in turn
        let copies = (400_000_000usize).div_ceil(len / 2).clamp(2, 16);
        let some = weights(1 << 20, FourBit::Nf4);
        let tile: Vec<u8> = some.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let bytes: Vec<u8> = tile.iter().copied().cycle().take(len * 2).collect();
        let source = client.create_from_slice(&bytes);
        let packed: Vec<Packed4> =
            (0..copies).map(|_| quantize4(&client, &source, len, Dtype::Bf16, format)).collect();
        let stored = len / 2 + len / 64 * 4;
        let t = timed(&client, 4, |_| drop(quantize4(&client, &source, len, Dtype::Bf16, format)));
        told(&format!("nf4 quantize {out}x{inner}"), t, len * 2 + stored);
        let t = timed(&client, copies.min(4), |i| drop(dequantize4(&client, &packed[i], Dtype::Bf16)));
        told(&format!("nf4 dequantize {out}x{inner}"), t, len * 2 + stored);
        for rows in [1, 2, 4, 8] {
            let x = upload(&client, &weights(rows * inner, FourBit::Nf4), Dtype::Bf16);
            let shape = [rows, out, inner];
            let t = timed(&client, copies, |i| {
                drop(multiply4(&client, &x, &packed[i], None, shape, [Dtype::Bf16; 2]).unwrap());
            });
            told(&format!("nf4 product {rows}x{out}x{inner}"), t, stored);
        }
        let nested: Vec<Packed4> =
            packed.iter().map(|packed| double_quantize4(&client, packed, 0.05)).collect();
        for rows in [1, 16] {
            let x = upload(&client, &weights(rows * inner, FourBit::Nf4), Dtype::Bf16);
            let shape = [rows, out, inner];
            let product = if rows == 1 { multiply4 } else { multiply4_batch };
            let t = timed(&client, copies, |i| {
                drop(product(&client, &x, &nested[i], None, shape, [Dtype::Bf16; 2]).unwrap());
            });
            told(&format!("nf4 product, double quantization, {rows}x{out}x{inner}"), t, len / 2 + len / 64);
        }
        for rows in [1, 2, 4, 8, 16, 32, 64] {
            let x = upload(&client, &weights(rows * inner, FourBit::Nf4), Dtype::Bf16);
            let shape = [rows, out, inner];
            let t = timed(&client, copies, |i| {
                drop(multiply4_batch(&client, &x, &packed[i], None, shape, [Dtype::Bf16; 2]).unwrap());
            });
            told(&format!("nf4 product of a batch {rows}x{out}x{inner}"), t, stored);
        }
    }
}

/// Every way to cut a product, for [`Tiling::of`].
#[test]
#[ignore = "measures"]
fn tilings() {
    let Some(client) = client("tilings") else { return };
    for [out, inner] in [[14336, 4096], [4096, 14336], [1536, 576]] {
        let len = out * inner;
        let copies = (400_000_000usize).div_ceil(len / 2).clamp(2, 16);
        let source = client.empty(len * 2);
        let format = format(FourBit::Nf4, 64);
        let packed: Vec<Packed4> =
            (0..copies).map(|_| quantize4(&client, &source, len, Dtype::Bf16, format)).collect();
        for rows in [1, 2, 4, 8] {
            let x = upload(&client, &weights(rows * inner, FourBit::Nf4), Dtype::Bf16);
            for outputs in [1, 2, 4] {
                for (split, pairs) in [(1, false), (2, false), (1, true), (2, true), (4, true)] {
                    let (shape, tiling) = ([rows, out, inner], Tiling { outputs, split, pairs });
                    let t = timed(&client, copies, |i| {
                        drop(
                            multiply4_tiled(&client, &x, &packed[i], None, shape, [Dtype::Bf16; 2], tiling)
                                .unwrap(),
                        );
                    });
                    told(&format!("{shape:?} {tiling:?}"), t, len / 2 + len / 16);
                }
            }
        }
    }
}
