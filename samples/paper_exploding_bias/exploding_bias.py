"""Why normalization must be part of what is differentiated: the example of section 2 of the paper."""

import torch

from bnfold.train.algorithms import exploding_bias

u = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
biases, losses = exploding_bias(u, target=u + 1, lr=0.1, steps=1001)
still, same = exploding_bias(u, target=u + 1, lr=0.1, steps=1001, through_mean=True)

print("          E[x] taken for a constant     E[x] depends on b")
print(" step          b        loss              b        loss")
for i in (0, 1, 10, 100, 1000):
    print(f"{i:5}   {biases[i]:8.2f}    {losses[i]:8.4f}       {abs(still[i]):8.2f}    {same[i]:8.4f}")
