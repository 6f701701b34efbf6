"""Training of a wrapped model in two processes."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = '''
import hashlib, json, os, sys
import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
import airlora

class Tokens(torch.utils.data.Dataset):
    def __len__(self): return 32
    def __getitem__(self, index):
        tokens = torch.randint(4, 30, (9,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}

class Drawn:
    """Policy whose ranks differ between the processes."""
    def __init__(self): self.generator = np.random.default_rng(int(os.environ["RANK"]))
    def decide(self, observation): return self.generator.integers(0, 5, len(observation.ranks))

folder, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder)
adapted = airlora.wrap(model, r_max=4)
callback = airlora.RankPolicyCallback(adapted, Drawn(), airlora.Link(10.0, 1e6))
arguments = TrainingArguments(
    output_dir=out, max_steps=4, save_steps=4, per_device_train_batch_size=4, learning_rate=0.01, report_to=[],
    use_cpu=True, disable_tqdm=True, seed=0,
)
Trainer(model, arguments, train_dataset=Tokens(), callbacks=[callback]).train()
digest = hashlib.sha256()
for update in adapted.updates.values():
    for own in update.parameters():
        digest.update(own.detach().numpy().tobytes())
with open(f"{out}/result-{os.environ['RANK']}.json", "w") as file:
    json.dump({"ranks": callback.ranks.tolist(), "digest": digest.hexdigest()}, file)
'''


def test_both_processes_train_the_same_adapter_at_the_ranks_of_the_first(tiny_decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / "out"
    out.mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [sys.executable, *launch, str(tmp_path / "script.py"), str(tiny_decoder), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((out / f"result-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(set(first["ranks"])) > 1
    assert (out / "checkpoint-4" / "model.safetensors").is_file()
