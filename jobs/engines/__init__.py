"""Running a model forward: vLLM or transformers behind one interface."""
