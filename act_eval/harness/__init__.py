"""What ties act-eval to lm-eval: the model `act-hf`, tasks, documents, scoring, and what a run is."""
