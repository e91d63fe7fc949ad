"""Forward passes of a model, by vLLM, transformers or an endpoint, behind one interface."""
