#!/usr/bin/env python3
"""Trains the iris model that the examples and the container tests serve, and writes it to model.joblib.

Needs the scikit-learn and joblib versions of tests/images/sklearnserver/requirements.txt: a model is loaded without
warnings only by the version that wrote it. The result is the same bytes every time.
"""

import pathlib

import joblib
from sklearn.datasets import load_iris
from sklearn.svm import SVC


def main():
    flowers, species = load_iris(return_X_y=True)
    model = SVC(gamma="scale", random_state=0).fit(flowers, species)
    joblib.dump(model, pathlib.Path(__file__).with_name("model.joblib"), compress=3)
    print(f"accuracy on the training data: {model.score(flowers, species):.3f}")


if __name__ == "__main__":
    main()
