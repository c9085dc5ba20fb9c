//! Tests of the whole: the rule between rooms, the documents. The program's and the numbers' tests live beside this
//! crate in `cli` and `numerics`, and belong to the packages that they test.
