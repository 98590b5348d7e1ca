// Products of rows of weights with one token: the form for few tokens. A workgroup prepares a piece of the token in its
// memory; then `lanes` threads multiply it by four rows, whose weights they stream.
//# when f32
//# use rows_f32
//# when int8
//# use rows_int8
//# end
