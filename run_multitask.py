"""Train from one YAML: `python run_multitask.py CONFIG [a.b=c ...]`, or `accelerate launch run_multitask.py CONFIG`."""

from mtl_hf.run import main

if __name__ == "__main__":
    main()
