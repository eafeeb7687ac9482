"""One file a paper: make(example, *, axis=None, **hyper-parameters) -> Model."""
