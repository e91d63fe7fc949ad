"""Forward passes of a model, by vLLM or transformers behind one interface."""
