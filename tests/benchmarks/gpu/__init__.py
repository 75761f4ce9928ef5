"""What one bare card tells in under nine minutes, with nothing downloaded.  make gpu

`python -m tests.benchmarks.gpu tiny` takes the same ways on a CPU, so that nothing is found broken on the day. Needed are torch,
transformers, accelerate, hydra-core, omegaconf and tqdm, and DeepSpeed and bitsandbytes for their parts; no git, no data, no weights.
"""
