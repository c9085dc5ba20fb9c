//! Products of matrices that lie in slices in any order, on the caller's thread: the small products of attention.

#![expect(unsafe_code, reason = "the kernels of `gemm` take pointers")]

/// A matrix in a slice: the element of row `i` and column `j` is at `i · strides[0] + j · strides[1]`.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Strided<'a> {
    /// A matrix of `shape` whose rows follow each other.
    ///
    /// # Panics
    /// If `values` is shorter than that.
    pub fn rows(values: &'a [f32], shape: [usize; 2]) -> Self {
        assert!(values.len() >= shape[0] * shape[1], "length of a matrix");
        Self { values, shape, strides: [shape[1], 1] }
    }

    /// The same values with rows for columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        Self { shape: [columns, rows], strides: [column, row], ..self }
    }
}

/// `out = a · b`, its rows one after the other. `a`: `[m, k]`, `b`: `[k, n]`, `out`: `m · n` values.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn multiply(a: Strided<'_>, b: Strided<'_>, out: &mut [f32]) {
    let ([m, k], [inner, n]) = (a.shape, b.shape);
    assert_eq!(k, inner, "columns of the first and rows of the second matrix");
    assert_eq!(out.len(), m * n, "length of the product");
    if k == 0 {
        out.fill(0.0);
        return;
    }
    let stride = |stride: usize| stride as isize;
    // SAFETY: both matrices hold `shape[0] · shape[1]` values, which `rows` checked and `transposed` keeps, at every
    // index that their strides reach; `out` has `m · n` values, checked above, and is borrowed for this call.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride(n),
            false,
            a.values.as_ptr(),
            stride(a.strides[1]),
            stride(a.strides[0]),
            b.values.as_ptr(),
            stride(b.strides[1]),
            stride(b.strides[0]),
            0.0_f32,
            1.0_f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_every_shape_and_order() {
        let values =
            |n: usize, step: usize| -> Vec<f32> { (0..n).map(|i| (i * step % 23) as f32 - 11.0).collect() };
        for (m, k, n) in
            [(1, 1, 1), (3, 64, 130), (96, 64, 77), (1, 5, 9), (4, 0, 3), (0, 2, 2), (7, 300, 64)]
        {
            let (a, b) = (values(m * k, 7), values(k * n, 5));
            let mut turned = vec![0.0; n * k];
            for (i, v) in b.iter().enumerate() {
                turned[(i % n) * k + i / n] = *v;
            }
            let expected: Vec<f32> =
                (0..m * n).map(|at| (0..k).map(|i| a[at / n * k + i] * b[i * n + at % n]).sum()).collect();
            let a = Strided::rows(&a, [m, k]);
            for b in [Strided::rows(&b, [k, n]), Strided::rows(&turned, [n, k]).transposed()] {
                let mut out = vec![f32::NAN; m * n];
                multiply(a, b, &mut out);
                assert_eq!(out, expected, "{m}×{k}×{n}");
            }
        }
    }
}
