// Products of rows of weights with one token: the form for few tokens. A workgroup makes a piece of the token ready in its
// memory; then `lanes` threads multiply four rows, whose weights they stream, with it.
//# when f32
//# use rows_f32
//# when int8
//# use rows_int8
//# end
