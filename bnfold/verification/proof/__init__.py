"""What the two files prove by themselves: which tensors are the same for every input. Nothing is run on onnxruntime.

A tensor of the folded model is the original's, or the original's times a scale plus a shift (`scale_and_shift`). Each
fold site is cut out of both models at such tensors (`claims`) and is one linear operator among others (`weights`), a
sum of tensors in other places (`sums`), the same last operator on operands that are derived (`operands`), or any linear
piece, which is fed impulses (`responses`). These kinds of sites stay open, and are measured:

    what happens between where an affine was and where it is         why it is open
    a nonlinear operator (but Relu, LeakyRelu, maxima)               a relation is known of linear ones only
    a product of tensors that are shifted, or summed over scales     it is no scale and shift of the product
    two linear operators, their channels in another order            that is no scale and shift of each channel
    an affine in the input weights of LSTM, GRU or RNN               their gates are not taken apart
    arithmetic with sizes, as of Pads that a model computes          sizes are compared, not calculated with
    operators that cut, pad or average in another order or form      two sizes do not speak for all
    tensors whose sizes inference does not know                      nor is there a second size to compare at
    more responses than effort `fast` has time for                   a share of them proves nothing
    quantized weights or activations                                 steps are compared with steps (`quantized`)

`python -m tests.benchmarks.proved_sites` counts them; tests/test_relations.py has an example of each.
"""
