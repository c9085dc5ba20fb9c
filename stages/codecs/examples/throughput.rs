//! Measures every codec: `cargo run --release -p qpipe-codecs --example throughput`.
//!
//! Rates are in 10⁹ weights per second on all threads of the pool (`RAYON_NUM_THREADS` sets their number), the best
//! of several repetitions on a matrix of 4096 × 4096.
#![expect(clippy::print_stdout, reason = "a program that prints measurements")]

use std::hint::black_box;
use std::time::Instant;

use half::bf16;
use qpipe_codecs::{
    BlockSize, CodecError, FourBit, GroupSize, PackedRtn, Rounding, RtnBits, RtnFormat, Symmetry,
    dequantize_int8, dequantize4, double_quantize, error_stats, matmul_int8, matmul_packed4,
    quantize_int8_measured, quantize_rtn, quantize4, quantize4_measured, round_slice,
};

const SIDE: usize = 4096;
const REPEATS: usize = 5;
const ROUNDINGS: [Rounding; 3] = [Rounding::None, Rounding::F16, Rounding::Bf16];

fn main() -> Result<(), CodecError> {
    println!("threads {}", rayon::current_num_threads());
    let wide = weights(SIDE * SIDE);
    let narrow: Vec<bf16> = wide.iter().map(|w| bf16::from_f32(*w)).collect();
    for kind in FourBit::ALL {
        four_bit(kind, &wide, &narrow)?;
    }
    int8(&narrow)?;
    for bits in [RtnBits::Four, RtnBits::Eight] {
        rtn(bits, &narrow)?;
    }
    others(&wide);
    Ok(())
}

fn four_bit(kind: FourBit, wide: &[f32], narrow: &[bf16]) -> Result<(), CodecError> {
    let block = BlockSize::default();
    let mut buffer = vec![0.0; wide.len()];
    rate(&format!("quantize {kind} from f32"), wide.len(), || drop(black_box(quantize4(kind, wide, block))));
    rate(&format!("quantize {kind} from bf16"), wide.len(), || {
        drop(black_box(quantize4_measured(kind, narrow, block)));
    });
    let q = quantize4(kind, wide, block)?;
    rate(&format!("dequantize {kind}"), wide.len(), || {
        dequantize4(kind, &q.packed, &q.absmax, block, wide.len(), &mut buffer);
    });
    for (m, round) in [1, 4].into_iter().flat_map(|m| ROUNDINGS.map(|r| (m, r))) {
        let x = weights(m * SIDE);
        let mut y = vec![0.0; m * SIDE];
        rate(&format!("matmul {kind} m={m} {round:?}"), wide.len(), || {
            matmul_packed4(kind, &q.packed, &q.absmax, block, SIDE, SIDE, &x, m, round, &mut y);
        });
    }
    rate("double quantize its absmax", wide.len(), || drop(black_box(double_quantize(&q.absmax))));
    Ok(())
}

fn int8(narrow: &[bf16]) -> Result<(), CodecError> {
    let mut buffer = vec![0.0; narrow.len()];
    rate("quantize int8 from bf16", narrow.len(), || {
        drop(black_box(quantize_int8_measured(narrow, SIDE, SIDE)));
    });
    let (q, _) = quantize_int8_measured(narrow, SIDE, SIDE)?;
    rate("dequantize int8", narrow.len(), || dequantize_int8(&q.codes, &q.scb, SIDE, SIDE, &mut buffer));
    for (m, round) in [1, 4].into_iter().flat_map(|m| ROUNDINGS.map(|r| (m, r))) {
        let x = weights(m * SIDE);
        let mut y = vec![0.0; m * SIDE];
        rate(&format!("matmul int8 m={m} {round:?}"), narrow.len(), || {
            matmul_int8(&q.codes, &q.scb, SIDE, SIDE, &x, m, round, &mut y);
        });
    }
    Ok(())
}

fn rtn(bits: RtnBits, narrow: &[bf16]) -> Result<(), CodecError> {
    let format = RtnFormat { bits, group: GroupSize::Of(64), symmetry: Symmetry::Symmetric };
    let (name, shape) = (format!("rtn w{}", bits.get()), [SIDE, SIDE]);
    rate(&format!("quantize {name} from bf16"), narrow.len(), || {
        drop(black_box(quantize_rtn(narrow, SIDE, SIDE, format)));
    });
    let (q, _) = quantize_rtn(narrow, SIDE, SIDE, format)?;
    let scales: Vec<f32> = q.scales.iter().map(|s| s.to_f32()).collect();
    let packed = PackedRtn::new(format, shape, &q.codes, &scales, &q.zeros)?;
    let mut buffer = vec![0.0; narrow.len()];
    rate(&format!("dequantize {name}"), narrow.len(), || assert!(packed.dequantize(&mut buffer).is_ok()));
    for m in [1, 4] {
        let (x, mut y) = (weights(m * SIDE), vec![0.0; m * SIDE]);
        rate(&format!("matmul {name} m={m}"), narrow.len(), || packed.matmul(&x, m, Rounding::None, &mut y));
    }
    Ok(())
}

fn others(wide: &[f32]) {
    let mut buffer = wide.to_vec();
    for round in [Rounding::F16, Rounding::Bf16] {
        rate(&format!("round_slice {round:?}, one thread"), wide.len(), || round_slice(&mut buffer, round));
    }
    rate("error_stats", wide.len(), || {
        black_box(error_stats(wide, &buffer));
    });
}

fn rate(what: &str, weights: usize, mut work: impl FnMut()) {
    let seconds = (0..REPEATS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    });
    let best = seconds.fold(f64::INFINITY, f64::min);
    println!("{what:40} {:8.3} G weights/s", weights as f64 / best / 1e9);
}

/// Sums of four uniform values: near enough to normal.
fn weights(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..n).map(|_| (uniform() + uniform() + uniform() + uniform()) * 0.05).collect()
}
