"""The article's training loop, unchanged, on the digits that come with the package.

    python examples/article_loop.py

Every step computes the central differences of the loss with respect to all 39,760 parameters. With
``method="naive"`` each of them takes two full forward passes, as in the article.
"""

import numpy as np

import distnum
from distnum import TwoLayerNet

data = distnum.load_data()
x_train, t_train = data.x_train.reshape(-1, 784) / 255, data.y_train
x_test, t_test = data.x_test.reshape(-1, 784) / 255, data.y_test

iters_num = 100
batch_size = 100
learning_rate = 0.1
rng = np.random.default_rng(0)

network = TwoLayerNet(input_size=784, hidden_size=50, output_size=10)

for i in range(iters_num):
    batch_mask = rng.choice(len(x_train), batch_size)
    x_batch = x_train[batch_mask]
    t_batch = t_train[batch_mask]

    grad = network.numerical_gradient(x_batch, t_batch)

    for key in ("W1", "b1", "W2", "b2"):
        network.params[key] -= learning_rate * grad[key]

    if (i + 1) % 20 == 0:
        loss = network.loss(x_batch, t_batch)
        print(f"step {i + 1}: loss {loss:.4f}, test accuracy {network.accuracy(x_test, t_test):.4f}")
