"""One file a paper: make(example, context, **hyper-parameters) -> Model."""
