//! A layer's operators against the same formulas in f64.

use cubecl::client::Client;
use qpipe_kernels::{
    Cache, DIVERGENCE, Dtype, Heads, SCORES, attend, divergence, embed, log_softmax_at, multiply_dense,
    pick_and_advance, rms_norm, rotate_and_store, swiglu,
};

use super::{DTYPES, Draws, client, download, rounded, upload};

fn drawn(len: usize, seed: u64, dtype: Dtype) -> Vec<f32> {
    let mut draws = Draws(seed);
    rounded(&(0..len).map(|_| draws.normal()).collect::<Vec<_>>(), dtype)
}

/// Each value is within rounding to `dtype`, and within `loose` of the largest, of the expected one.
fn close(got: &[f32], expected: &[f64], dtype: Dtype, loose: f64, case: &str) {
    assert_eq!(got.len(), expected.len(), "{case}");
    let ulp = [0.0, 2f64.powi(-11), 2f64.powi(-8)][dtype as usize];
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let allowed = expected.abs() * ulp + largest * loose;
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= allowed, "{case} {dtype:?}, value {i}: {got} {expected}");
    }
}

#[test]
fn norms_are_those_of_the_rounded_sum() {
    let Some(client) = client("norms_are_those_of_the_rounded_sum") else { return };
    for dtype in DTYPES {
        for (rows, width) in [(1, 8), (3, 576), (2, 4096), (700, 64)] {
            let (x, y) = (drawn(rows * width, 1, dtype), drawn(rows * width, 2, dtype));
            let weight = drawn(width, 3, Dtype::F32);
            let on = |values: &[f32], dtype| upload(&client, values, dtype);
            for adds in [false, true] {
                let sum: Vec<f32> = x.iter().zip(&y).map(|(a, b)| if adds { a + b } else { *a }).collect();
                let sum = rounded(&sum, dtype);
                let expected: Vec<f64> = sum
                    .chunks(width)
                    .flat_map(|row| {
                        let squares: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
                        let scale = 1.0 / (squares / width as f64 + 1e-5).sqrt();
                        row.iter().zip(&weight).map(move |(v, w)| f64::from(*v) * scale * f64::from(*w))
                    })
                    .collect();
                let (y, weight) = (on(&y, dtype), on(&weight, Dtype::F32));
                let given = adds.then_some(&y);
                let (got, normed) =
                    rms_norm(&client, &on(&x, dtype), given, &weight, [rows, width], 1e-5, dtype).unwrap();
                assert_eq!(download(&client, &got, sum.len(), dtype), sum, "the sum");
                let normed = download(&client, &normed, sum.len(), dtype);
                close(&normed, &expected, dtype, 1e-6, &format!("{rows}x{width} adds {adds}"));
            }
        }
    }
}

#[test]
fn the_gate_is_silu() {
    let Some(client) = client("the_gate_is_silu") else { return };
    for dtype in DTYPES {
        let (gate, up) = (drawn(8 * 333, 4, dtype), drawn(8 * 333, 5, dtype));
        let silu = |g: f32| f64::from(g) / (1.0 + (-f64::from(g)).exp());
        let expected: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| silu(*g) * f64::from(*u)).collect();
        let (rows, width) = (333, 8);
        let got = swiglu(
            &client,
            &upload(&client, &gate, dtype),
            &upload(&client, &up, dtype),
            [rows, width],
            width,
            dtype,
        );
        close(&download(&client, &got.unwrap(), gate.len(), dtype), &expected, dtype, 1e-6, "silu");
        // side by side, as one product gives them
        let both: Vec<f32> =
            gate.chunks(width).zip(up.chunks(width)).flat_map(|(g, u)| [g, u].concat()).collect();
        let both = upload(&client, &both, dtype);
        let second = both.clone().offset_start((width * dtype.size()) as u64);
        let got = swiglu(&client, &both, &second, [rows, width], 2 * width, dtype);
        close(
            &download(&client, &got.unwrap(), gate.len(), dtype),
            &expected,
            dtype,
            1e-6,
            "silu of joined rows",
        );
    }
}

#[test]
fn dense_products_add_in_f32() {
    let Some(client) = client("dense_products_add_in_f32") else { return };
    for dtype in DTYPES {
        for [rows, out, inner] in [[1, 5, 8], [3, 333, 576], [8, 64, 4096]] {
            let (x, w) = (drawn(rows * inner, 6, dtype), drawn(out * inner, 7, dtype));
            let dot = |r: usize, o: usize| -> f64 {
                let pairs = x[r * inner..][..inner].iter().zip(&w[o * inner..][..inner]);
                pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let bias = drawn(out, 8, Dtype::F32);
            let bias_on = upload(&client, &bias, Dtype::F32);
            let expected: Vec<f64> = (0..rows * out).map(|i| dot(i / out, i % out)).collect();
            let biased: Vec<f64> =
                expected.iter().enumerate().map(|(i, y)| y + f64::from(bias[i % out])).collect();
            for result in [dtype, Dtype::F32] {
                let (x, w) = (upload(&client, &x, dtype), upload(&client, &w, dtype));
                for (bias, expected) in [(None, &expected), (Some(&bias_on), &biased)] {
                    let shape = [rows, out, inner];
                    let got = multiply_dense(&client, &x, &w, bias, shape, [dtype, result]).unwrap();
                    let got = download(&client, &got, rows * out, result);
                    close(&got, expected, result, 1e-5, &format!("{shape:?}, biased {}", bias.is_some()));
                }
            }
        }
    }
}

/// One pass of `seq` tokens from `start` on over a cache that holds what came before.
struct Case {
    heads: Heads,
    start: usize,
}

impl Case {
    fn check(&self, client: &Client, dtype: Dtype) {
        let Case { heads, start } = *self;
        let Heads { batch, seq, heads: q_heads, kv_heads, dim, capacity, window } = heads;
        let (tokens, half) = (batch * seq, dim / 2);
        let q = drawn(tokens * q_heads * dim, 8, dtype);
        let (k, v) = (drawn(tokens * kv_heads * dim, 9, dtype), drawn(tokens * kv_heads * dim, 10, dtype));
        let cache_len = batch * kv_heads * capacity * dim;
        let (mut keys, mut values) = (drawn(cache_len, 11, dtype), drawn(cache_len, 12, dtype));
        let angle = |p: usize, i: usize| p as f32 / 10f32.powf(i as f32 / half as f32);
        let table: Vec<f32> = (0..capacity)
            .flat_map(|p| {
                let cos = (0..half).map(move |i| angle(p, i).cos());
                cos.chain((0..half).map(move |i| angle(p, i).sin()))
            })
            .collect();
        let on = |values: &[f32], dtype| upload(client, values, dtype);
        let (keys_on, values_on) = (on(&keys, dtype), on(&values, dtype));
        let cache = Cache { keys: &keys_on, values: &values_on };
        let at = client.create_from_slice(&[(start as u32).to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat());
        let table_on = on(&table, Dtype::F32);
        // apart, or as one product gives them: side by side in one row
        let (q_width, kv_width) = (q_heads * dim, kv_heads * dim);
        let (given, strides) = if batch == 1 {
            ([on(&q, dtype), on(&k, dtype), on(&v, dtype)], [q_width, kv_width])
        } else {
            let row = |t: usize| {
                let [k, v] = [&k, &v].map(|of| &of[t * kv_width..][..kv_width]);
                [&q[t * q_width..][..q_width], k, v].concat()
            };
            let joined = on(&(0..tokens).flat_map(row).collect::<Vec<_>>(), dtype);
            let from = |first: usize| joined.clone().offset_start((first * dtype.size()) as u64);
            ([from(0), from(q_width), from(q_width + kv_width)], [q_width + 2 * kv_width; 2])
        };
        let [q_on, k_on, v_on] = &given;
        let rotated = rotate_and_store(
            client,
            [q_on, k_on, v_on],
            strides,
            cache,
            (&table_on, capacity),
            &at,
            heads,
            dtype,
        )
        .unwrap();
        let out = attend(client, &rotated, cache, &at, heads, dtype).unwrap();

        let rotate = |row: &[f32], position: usize| -> Vec<f32> {
            let (cos, sin) = table[position * dim..][..dim].split_at(half);
            let turned = (0..dim).map(|i| {
                let (a, b) = (f64::from(row[i % half]), f64::from(row[i % half + half]));
                let (c, s) = (f64::from(cos[i % half]), f64::from(sin[i % half]));
                (if i < half { a * c - b * s } else { b * c + a * s }) as f32
            });
            rounded(&turned.collect::<Vec<_>>(), dtype)
        };
        for token in 0..tokens {
            let position = start + token % seq;
            for kv in 0..kv_heads {
                let from = (token * kv_heads + kv) * dim;
                let to = ((token / seq * kv_heads + kv) * capacity + position) * dim;
                keys[to..to + dim].copy_from_slice(&rotate(&k[from..from + dim], position));
                values[to..to + dim].copy_from_slice(&v[from..from + dim]);
            }
        }
        assert_eq!(download(client, &values_on, cache_len, dtype), values, "the cache's values");
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<f64>>();
        let loose = [1e-6, 3e-4, 2e-3][dtype as usize];
        close(&download(client, &keys_on, cache_len, dtype), &wide(&keys), dtype, loose, "the cache's keys");
        let mut expected = Vec::new();
        for token in 0..tokens {
            let position = start + token % seq;
            let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
            for head in 0..q_heads {
                let asked = rotate(&q[(token * q_heads + head) * dim..][..dim], position);
                let kv = (token / seq * kv_heads + head / (q_heads / kv_heads)) * capacity;
                let row = |of: &[f32], key: usize| wide(&of[(kv + key) * dim..][..dim]);
                let scores: Vec<f64> = (first..=position)
                    .map(|key| {
                        let dot: f64 =
                            row(&keys, key).iter().zip(&asked).map(|(a, b)| a * f64::from(*b)).sum();
                        dot / (dim as f64).sqrt()
                    })
                    .collect();
                let best = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - best).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut mixed = vec![0.0; dim];
                for (key, weight) in (first..=position).zip(&weights) {
                    for (m, v) in mixed.iter_mut().zip(row(&values, key)) {
                        *m += weight / total * v;
                    }
                }
                expected.extend(mixed);
            }
        }
        let got = download(client, &out, expected.len(), dtype);
        // a rotated value that rounds to the other side moves a score
        let loose = [5e-6, 1e-3, 8e-3][dtype as usize];
        close(&got, &expected, dtype, loose, &format!("{heads:?} from {start}"));
    }
}

#[test]
fn attention_is_softmax_over_the_cache() {
    let Some(client) = client("attention_is_softmax_over_the_cache") else { return };
    let heads = |batch, seq, heads, kv_heads, dim, window| Heads {
        batch,
        seq,
        heads,
        kv_heads,
        dim,
        capacity: 150 + seq,
        window,
    };
    for dtype in DTYPES {
        for (heads, start) in [
            (heads(1, 1, 4, 4, 32, None), 0),
            (heads(2, 1, 9, 3, 64, None), 141),
            (heads(1, 1, 8, 2, 128, Some(16)), 100),
            (heads(2, 37, 6, 2, 64, None), 0),
            (heads(1, 50, 4, 1, 256, None), 100),
            (heads(3, 33, 4, 2, 96, Some(8)), 60),
            (heads(2, 300, 4, 2, 64, None), 0),
            (heads(1, 200, 2, 1, 128, Some(70)), 120),
            (heads(2, 1, 4, 4, 96, None), 40),
            (heads(1, 1, 6, 2, 256, Some(100)), 148),
        ] {
            Case { heads, start }.check(&client, dtype);
        }
    }
}

#[test]
fn scores_are_those_of_the_whole_row() {
    let Some(client) = client("scores_are_those_of_the_whole_row") else { return };
    for [rows, vocabulary] in [[1, 7], [5, 49_152], [3, 1000]] {
        let mut logits = drawn(rows * vocabulary, 13, Dtype::F32);
        // two largest values: the first is taken
        let (first, second) = (vocabulary / 2, vocabulary - 1);
        for row in logits.chunks_mut(vocabulary) {
            (row[first], row[second]) = (9.5, 9.5);
        }
        let targets: Vec<u32> = (0..rows).map(|row| (row * 37 % vocabulary) as u32).collect();
        let mut bytes: Vec<u8> = targets.iter().flat_map(|t| t.to_le_bytes()).collect();
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let on = upload(&client, &logits, Dtype::F32);
        let got = log_softmax_at(&client, &on, &client.create_from_slice(&bytes), [rows, vocabulary]);
        let got = download(&client, &got, rows * SCORES, Dtype::F32);
        for ((row, got), target) in logits.chunks(vocabulary).zip(got.chunks(SCORES)).zip(targets) {
            let sum: f64 = row.iter().map(|v| f64::from(v - 9.5).exp()).sum();
            assert_eq!((got[0], got[2]), (9.5, row[target as usize]));
            assert!((f64::from(got[1]) - sum.ln()).abs() < 1e-5, "{} {}", got[1], sum.ln());
            assert_eq!(got[3].to_bits() as usize, first);
        }
    }
}

fn ids(client: &Client, ids: &[u32]) -> cubecl::server::Handle {
    let mut bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    client.create_from_slice(&bytes)
}

fn read_ids(client: &Client, handle: &cubecl::server::Handle, len: usize) -> Vec<u32> {
    let bytes = client.read_one(handle.clone()).unwrap();
    bytes.as_chunks::<4>().0.iter().take(len).map(|b| u32::from_le_bytes(*b)).collect()
}

/// Against the same sums in f64.
#[test]
fn divergences_are_those_of_the_distributions() {
    let Some(client) = client("divergences_are_those_of_the_distributions") else { return };
    for [rows, vocabulary] in [[1, 2], [5, 1001], [3, 49_152]] {
        let base = drawn(rows * vocabulary, 21, Dtype::F32);
        let noise = drawn(rows * vocabulary, 22, Dtype::F32);
        let mut variant: Vec<f32> = base.iter().zip(&noise).map(|(b, n)| b + n * 0.1 + 3.0).collect();
        let mut base = base;
        // the first row is the same, but for what is added to all of it; in the last a token is ruled out by both
        variant[..vocabulary].copy_from_slice(&base[..vocabulary]);
        variant[..vocabulary].iter_mut().for_each(|logit| *logit += 8.0);
        let last = rows * vocabulary - 1;
        if rows > 1 {
            (base[last], variant[last]) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        }
        let on = |values: &[f32]| upload(&client, values, Dtype::F32);
        let got = divergence(&client, &on(&base), &on(&variant), [rows, vocabulary]);
        let got = download(&client, &got, rows * DIVERGENCE, Dtype::F32);
        for (r, (p, q)) in base.chunks(vocabulary).zip(variant.chunks(vocabulary)).enumerate() {
            let log = |row: &[f32]| {
                let largest = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
                let sum: f64 = row.iter().map(|v| f64::from(v - largest).exp()).sum();
                row.iter().map(|v| f64::from(*v) - f64::from(largest) - sum.ln()).collect::<Vec<_>>()
            };
            let (p_log, q_log) = (log(p), log(q));
            let terms = p_log.iter().zip(&q_log).filter(|(p, _)| p.exp() > 0.0);
            let kl: f64 = terms.map(|(p, q)| p.exp() * (p - q)).sum();
            let case = format!("row {r} of {rows}x{vocabulary}: {} {kl}", got[r * 2]);
            assert!((f64::from(got[r * 2]) - kl).abs() < 3e-6, "{case}");
            let place = |row: &[f32]| {
                let largest = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
                row.iter().position(|v| *v == largest)
            };
            let agree = if place(p) == place(q) { 1.0 } else { 0.0 };
            assert_eq!(got[r * 2 + 1], agree, "{case}");
        }
    }
}

#[test]
fn the_likeliest_token_is_picked_and_the_position_advances() {
    let Some(client) = client("the_likeliest_token_is_picked_and_the_position_advances") else { return };
    for [rows, vocabulary] in [[1, 3], [7, 49_152], [32, 1001]] {
        let logits = drawn(rows * vocabulary, 14, Dtype::F32);
        let mut logits: Vec<f32> = logits.iter().map(|v| v - 20.0).collect();
        let mut expected = Vec::new();
        for (r, row) in logits.chunks_mut(vocabulary).enumerate() {
            // the first of two largest
            let first = r * 97 % vocabulary;
            row[first] = -3.0;
            row[vocabulary - 1] = -3.0;
            expected.push(first as u32);
        }
        let (tokens, start) = (ids(&client, &vec![0; rows]), ids(&client, &[41]));
        pick_and_advance(&client, &upload(&client, &logits, Dtype::F32), [rows, vocabulary], &tokens, &start);
        assert_eq!(read_ids(&client, &tokens, rows), expected, "{rows}x{vocabulary}");
        assert_eq!(read_ids(&client, &start, 1), [42]);
    }
}

#[test]
fn embedded_rows_are_the_tables() {
    let Some(client) = client("embedded_rows_are_the_tables") else { return };
    for dtype in DTYPES {
        let (table_rows, width) = (50, 24);
        let table = drawn(table_rows * width, 15, dtype);
        let wanted = [49, 0, 7, 7];
        let on = upload(&client, &table, dtype);
        let got = embed(&client, (&on, table_rows), &ids(&client, &wanted), [4, width], dtype).unwrap();
        let expected: Vec<f32> =
            wanted.iter().flat_map(|id| &table[*id as usize * width..][..width]).copied().collect();
        assert_eq!(download(&client, &got, 4 * width, dtype), expected);
    }
}

/// Attention of a whole window of SmolLM2-135M's and of Llama-3.2-1B's heads.
#[test]
#[ignore = "measures"]
fn figures_of_attention() {
    let Some(client) = client("figures_of_attention") else { return };
    for dtype in [Dtype::Bf16, Dtype::F32] {
        for (batch, seq, heads, kv_heads) in [(4, 2048, 9, 3), (8, 512, 32, 8), (1, 1, 9, 3), (1, 1, 32, 8)] {
            let heads = Heads { batch, seq, heads, kv_heads, dim: 64, capacity: 2048, window: None };
            let len = batch * seq * heads.heads * 64;
            let empty = |len: usize| client.empty(len * dtype.size());
            let (q, keys) = (empty(len), empty(batch * kv_heads * 2048 * 64));
            let values = empty(batch * kv_heads * 2048 * 64);
            let start = if seq == 1 { 1023u32 } else { 0 };
            let start = client.create_from_slice(&[start.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat());
            let cache = Cache { keys: &keys, values: &values };
            let t = super::timed(&client, 4, |_| {
                drop(attend(&client, &q, cache, &start, heads, dtype).unwrap());
            });
            let what = format!("attention {batch}x{seq}, {} of {kv_heads} heads, {dtype:?}", heads.heads);
            super::told(&what, t, len * 2 * dtype.size());
        }
    }
}

/// What moves values and computes little, against all bytes that it reads and writes.
#[test]
#[ignore = "measures"]
fn figures_of_what_is_between() {
    let Some(client) = client("figures_of_what_is_between") else { return };
    let dtype = Dtype::Bf16;
    let empty = |len: usize, size: usize| client.empty(len * size);
    for rows in [1, 4096] {
        let (x, y, norm) = (empty(rows * 4096, 2), empty(rows * 4096, 2), empty(4096, 4));
        let t = super::timed(&client, 8, |_| {
            drop(rms_norm(&client, &x, Some(&y), &norm, [rows, 4096], 1e-5, dtype).unwrap());
        });
        super::told(&format!("sum and norm {rows}x4096"), t, rows * 4096 * 8);
        let gate = empty(rows * 2 * 14336, 2);
        let up = gate.clone().offset_start(14336 * 2);
        let t = super::timed(&client, 8, |_| {
            drop(swiglu(&client, &gate, &up, [rows, 14336], 2 * 14336, dtype).unwrap());
        });
        super::told(&format!("gate {rows}x14336"), t, rows * 14336 * 6);
        let heads =
            Heads { batch: 1, seq: rows, heads: 32, kv_heads: 8, dim: 128, capacity: 4096, window: None };
        let (table, start) = (empty(4096 * 128, 4), client.create_from_slice(&[0; 16]));
        let (keys, values) = (empty(8 * 4096 * 128, 2), empty(8 * 4096 * 128, 2));
        let given = empty(rows * 48 * 128, 2);
        let from = |at: usize| given.clone().offset_start((at * 2) as u64);
        let (q, k, v) = (from(0), from(32 * 128), from(40 * 128));
        let cache = Cache { keys: &keys, values: &values };
        let t = super::timed(&client, 8, |_| {
            let strides = [48 * 128; 2];
            let table = (&table, 4096);
            drop(
                rotate_and_store(&client, [&q, &k, &v], strides, cache, table, &start, heads, dtype).unwrap(),
            );
        });
        super::told(&format!("rotate and store {rows}x(32 + 2 of 8 heads of 128)"), t, rows * 48 * 128 * 4);
        let (ids, table) = (client.create_from_slice(&vec![0; rows.max(4) * 4]), empty(128_256 * 4096, 2));
        let t = super::timed(&client, 8, |_| {
            drop(embed(&client, (&table, 128_256), &ids, [rows, 4096], dtype).unwrap());
        });
        super::told(&format!("embed {rows}x4096"), t, rows * 4096 * 4);
        if rows == 1 {
            let weights: Vec<_> = (0..8).map(|_| empty(14336 * 4096, 2)).collect();
            let t = super::timed(&client, 8, |i| {
                let shape = [1, 14336, 4096];
                drop(multiply_dense(&client, &x, &weights[i], None, shape, [dtype; 2]).unwrap());
            });
            super::told("dense product 1x14336x4096", t, 14336 * 4096 * 2);
        }
    }
    for rows in [1, 1024] {
        let (logits, targets) =
            (empty(rows * 128_256, 4), client.create_from_slice(&vec![0; rows.max(4) * 4]));
        let t = super::timed(&client, 8, |_| {
            drop(log_softmax_at(&client, &logits, &targets, [rows, 128_256]));
        });
        super::told(&format!("scores {rows}x128256"), t, rows * 128_256 * 4);
        let start = client.create_from_slice(&[0; 16]);
        let t = super::timed(&client, 8, |_| {
            pick_and_advance(&client, &logits, [rows, 128_256], &targets, &start);
        });
        super::told(&format!("likeliest of {rows}x128256"), t, rows * 128_256 * 4);
    }
}
