"""Losses and targets of DINOv2's training, written out in loops and in double precision."""

import math

import numpy as np


def softmax(scores):
    scores = np.asarray(scores, np.float64)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def cross_entropy(target, scores, temperature):
    probabilities = softmax(np.asarray(scores, np.float64) / temperature)
    target = np.asarray(target, np.float64)
    return -sum(t * math.log(p) for t, p in zip(target, probabilities, strict=True))


def sinkhorn(scores, temperature, iterations=3):
    """Scales a table of tokens and prototypes, with the sums of arXiv:2006.09882."""
    table = np.exp(np.asarray(scores, np.float64) / temperature).T  # prototypes x tokens
    num_prototypes, num_tokens = table.shape
    table /= table.sum()
    for _ in range(iterations):
        for row in table:
            row /= row.sum() * num_prototypes
        for column in table.T:
            column /= column.sum() * num_tokens
    return table.T * num_tokens


def dino(targets, scores, temperature):
    """The mean over images and pairs of crops; ``targets[g][i]``, ``scores[v][i]``."""
    losses = []
    for image in range(len(scores[0])):
        for g, target in enumerate(targets):
            for v, crop in enumerate(scores):
                if g != v:
                    losses.append(cross_entropy(target[image], crop[image], temperature))
    return sum(losses) / len(losses)


def ibot(targets, scores, temperature):
    """The mean over crops of the mean over the masked patches of each; lists of crops."""
    total = 0.0
    for crop_targets, crop_scores in zip(targets, scores, strict=True):
        losses = [
            cross_entropy(target, patch, temperature)
            for target, patch in zip(crop_targets, crop_scores, strict=True)
        ]
        total += sum(losses) / max(1, len(losses))
    return total / len(targets)


def koleo(features):
    """Minus the mean logarithm of the distance of each image to its nearest neighbour."""
    directions = [row / np.linalg.norm(row) for row in np.asarray(features, np.float64)]
    total = 0.0
    for i, own in enumerate(directions):
        others = [np.linalg.norm(own - row) for j, row in enumerate(directions) if j != i]
        total -= math.log(min(others))
    return total / len(directions)


def scores_of_head(mlp, prototypes, tokens):
    """Cosines behind an MLP of (weight, bias) pairs with GELU between them."""
    x = np.asarray(tokens, np.float64)
    for i, (weight, bias) in enumerate(mlp):
        if i:
            x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        x = x @ np.asarray(weight, np.float64).T + np.asarray(bias, np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    prototypes = np.asarray(prototypes, np.float64)
    return x @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
