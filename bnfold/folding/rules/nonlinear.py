"""Operators through which no affine moves, whatever its coefficients: a final reason, not a rule yet to be written."""

from __future__ import annotations

NONLINEAR = {
    *("Acos", "Acosh", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Attention", "BitShift", "Ceil", "Celu"),
    *("Cos", "Cosh", "CumProd", "Det", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual"),
    *("HardSigmoid", "HardSwish", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "LogSoftmax"),
    *("LpNormalization", "LRN", "MeanVarianceNormalization", "Mish", "Mod", "Multinomial", "NonMaxSuppression"),
    *("NonZero", "Not", "OneHot", "Pow", "Reciprocal", "ReduceLogSum"),
    *("ReduceLogSumExp", "ReduceProd", "ReduceSumSquare", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "TopK", "Unique"),
}
