//! How values and levels lie in a page: plain, and the hybrid of runs and bit-packing ("RLE").

use serde_json::{Number, Value};

use super::schema::{Leaf, Physical};

/// Why a page's bytes do not decode.
pub(super) enum Fault {
    /// They end early.
    End,
    /// They contradict the format.
    Bad(String),
}

/// `count` numbers of `width` bits in the hybrid encoding. A run is cut at `count`: the last one may be padded.
pub(super) fn hybrid(bytes: &[u8], width: u32, count: usize) -> Result<Vec<u32>, Fault> {
    if width > 32 {
        return Err(Fault::Bad(format!("numbers of {width} bits")));
    }
    let (mut rest, mut values) = (bytes, Vec::new());
    while values.len() < count {
        let header = varint(&mut rest)?;
        let wanted = count - values.len();
        let claimed = usize::try_from(header >> 1).unwrap_or(usize::MAX);
        if header & 1 == 1 {
            let length = claimed.saturating_mul(width as usize);
            let packed = take(&mut rest, length)?;
            unpack(packed, width, claimed.saturating_mul(8).min(wanted), &mut values);
        } else {
            let stored = take(&mut rest, width.div_ceil(8) as usize)?;
            let value = stored.iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
            if claimed == 0 {
                return Err(Fault::Bad("an empty run".into()));
            }
            values.resize(values.len() + claimed.min(wanted), value);
        }
    }
    Ok(values)
}

/// The numbers of a bit-packed run, least significant bits first.
fn unpack(packed: &[u8], width: u32, count: usize, values: &mut Vec<u32>) {
    let mask = if width == 32 { u32::MAX } else { (1 << width) - 1 };
    let (mut bits, mut available, mut bytes) = (0_u64, 0, packed.iter());
    for _ in 0..count {
        while available < width {
            bits |= u64::from(bytes.next().copied().unwrap_or(0)) << available;
            available += 8;
        }
        values.push(bits as u32 & mask);
        bits >>= width;
        available -= width;
    }
}

/// `count` values in the plain encoding.
pub(super) fn plain(leaf: &Leaf, bytes: &[u8], count: usize) -> Result<Vec<Value>, Fault> {
    match leaf.physical {
        Physical::Boolean => {
            let packed = bytes.get(..count.div_ceil(8)).ok_or(Fault::End)?;
            Ok((0..count).map(|i| Value::Bool(packed[i / 8] >> (i % 8) & 1 == 1)).collect())
        }
        Physical::Int32 => fixed(bytes, count, |b| {
            let value = i32::from_le_bytes(b);
            Ok(if leaf.unsigned { (value as u32).into() } else { value.into() })
        }),
        Physical::Int64 => fixed(bytes, count, |b| {
            let value = i64::from_le_bytes(b);
            Ok(if leaf.unsigned { (value as u64).into() } else { value.into() })
        }),
        Physical::Float => fixed(bytes, count, |b| float(f32::from_le_bytes(b).into())),
        Physical::Double => fixed(bytes, count, |b| float(f64::from_le_bytes(b))),
        Physical::ByteArray => texts(bytes, count),
    }
}

fn fixed<const N: usize>(
    bytes: &[u8],
    count: usize,
    value: impl Fn([u8; N]) -> Result<Value, Fault>,
) -> Result<Vec<Value>, Fault> {
    let (stored, _) = bytes.as_chunks::<N>();
    stored.get(..count).ok_or(Fault::End)?.iter().map(|stored| value(*stored)).collect()
}

fn float(value: f64) -> Result<Value, Fault> {
    let number = Number::from_f64(value).ok_or_else(|| Fault::Bad(format!("{value} is no JSON number")))?;
    Ok(Value::Number(number))
}

fn texts(mut bytes: &[u8], count: usize) -> Result<Vec<Value>, Fault> {
    let mut values = Vec::new();
    for _ in 0..count {
        let length = take(&mut bytes, 4)?;
        let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let text = std::str::from_utf8(take(&mut bytes, length)?);
        values.push(text.map_err(|_| Fault::Bad("a text is not utf-8".into()))?.into());
    }
    Ok(values)
}

pub(super) fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Fault> {
    let (taken, after) = rest.split_at_checked(count).ok_or(Fault::End)?;
    *rest = after;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Fault::Bad("a run's length has more than 63 bits".into()))
}
