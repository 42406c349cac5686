"""Gradients, the slow way."""

import pyarrow as pa
import torch

from support.models import random_tokens, small_model

CHECKPOINT = "targets/t/checkpoint-000010"


def naive_gradients(tokens, model):
    """float64 [N, P]: a backward pass of the model's own loss for each example with a label."""
    found = []
    for row in tokens.to_pylist():
        if any(row["loss_mask"]):
            ids = torch.tensor([row["input_ids"]])
            labels = torch.where(torch.tensor([row["loss_mask"]]), ids, -100)
            model.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            found.append(
                torch.cat([weights.grad.reshape(-1) for weights in model.parameters()]).double()
            )
    return torch.stack(found).numpy()


def stages(store, tmp_path, parts=(20, 1, 14), num_clusters=4):
    """A target's checkpoint, tokens in parts, and clusters of those examples that have a label."""
    small_model("llama").save_pretrained(tmp_path / "model")
    store.upload(tmp_path / "model", *CHECKPOINT.split("/"))
    tables, tokens, clusters = [], [], []
    for number, count in enumerate(parts):
        table = random_tokens(count, seed=number, first_id=1000 * number)
        tables.append(table)
        unit = f"part-{number:05d}"
        tokens.append(store.write_part(table, "tokens/t", unit))
        ids = labelled(table)["example_id"]
        cluster_id = pa.array([i % num_clusters for i in ids.to_pylist()], pa.int32())
        rows = pa.table({"example_id": ids, "cluster_id": cluster_id})
        clusters.append(store.write_part(rows, "clusters/t", unit, suffix="parquet"))
    return (
        pa.concat_tables(tables),
        store.commit("tokens/t", "t", tokens, {}),
        store.commit("clusters/t", "t", clusters, {}),
    )


def labelled(tokens):
    return tokens.filter(pa.compute.greater(tokens["num_label_tokens"], 0))
