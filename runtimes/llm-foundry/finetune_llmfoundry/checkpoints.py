"""What lies in a run's output folder: its owner, its checkpoints, the export and the completion marker."""

import json
import re
from dataclasses import dataclass

from .outcomes import CheckpointUnusable, FolderOwnedByOther, Unavailable
from .store import split

NAME = re.compile(r"^ep(\d+)-ba(\d+)\b")
MARKER, OWNER = "completed.json", "owner.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is complete: a file, or a folder of shards."""

    key: str
    epoch: int
    step: int
    size: int


def parse(key):
    """Epoch and step of `…/ep1-ba20-rank0.pt` or `…/ep1-ba20`, or None."""
    match = NAME.match(key.rstrip("/").rsplit("/", 1)[-1])
    return (int(match[1]), int(match[2])) if match else None


class Outputs:
    """The folder `<saveFolder>/<run>` of one run."""

    def __init__(self, store, uri, link_name):
        self.store = store
        self.prefix = split(uri)[1]
        self.link = f"{self.prefix}/checkpoints/{link_name}"

    def check_owner(self, uid):
        data = self.store.read(f"{self.prefix}/{OWNER}")
        if data is None:
            return
        try:
            owner = json.loads(data).get("uid")
        except (ValueError, AttributeError):
            owner = None
        if owner != uid:
            raise FolderOwnedByOther(f"{self.store.uri(self.prefix)} belongs to another run: choose another save folder or name")

    def marker(self, uid):
        """The completion marker of this very run, or None."""
        data = self.store.read(f"{self.prefix}/{MARKER}")
        if data is None:
            return None
        try:
            marker = json.loads(data)
        except ValueError:
            return None
        return marker if isinstance(marker, dict) and marker.get("uid") == uid else None

    def write_marker(self, marker):
        self.store.write(f"{self.prefix}/{MARKER}", json.dumps(marker).encode())

    def checkpoint(self, key):
        """The checkpoint at a key when it is there: a file that is not empty, or a folder with its `.metadata`."""
        found = parse(key)
        if found is None:
            return None
        size = self.store.size(key)
        if not size:
            shards = self.store.list(f"{key}/")
            if f"{key}/.metadata" not in (name for name, _ in shards):
                return None
            size = sum(length for _, length in shards)
        return Checkpoint(key, *found, size)

    def linked(self):
        """The key that the link names, or None."""
        data = self.store.read(self.link)
        return data.decode(errors="replace").strip() if data else None

    def resume_from(self, expected):
        """The checkpoint to go on from, or None to start from the beginning.

        The engine starts from zero whenever it cannot read the link. So the link is read here, compared with the
        checkpoint that the operator expects, and renewed when it was lost but that checkpoint is there.
        """
        key = self.linked()
        newest = self.checkpoint(key) if key else None
        if key and newest is None:
            raise CheckpointUnusable(f"{self.store.uri(self.link)} names {key[:300]}, which is not a complete checkpoint")
        if newest is None:
            self.refuse_other_form(expected)
        if expected is None:
            return newest
        root, wanted = split(expected)
        at = parse(wanted)
        if at is None or root != self.store.root:
            raise CheckpointUnusable(f"{expected} is not the name of a checkpoint of this run")
        if newest is not None and newest.step >= at[1]:
            return newest
        known = self.checkpoint(wanted) if wanted.startswith(f"{self.prefix}/checkpoints/") else None
        if known is None:
            raise CheckpointUnusable(f"{expected} is expected, but neither it nor a newer checkpoint is there")
        self.store.write(self.link, wanted.encode())
        return known

    def refuse_other_form(self, expected):
        """Sharded and unsharded checkpoints have links of other names; neither form resumes from the other."""
        folder = f"{self.prefix}/checkpoints/"
        links = [key for key, _ in self.store.list(f"{folder}latest-") if key.endswith(".symlink")]
        if links and expected is None:
            raise CheckpointUnusable(
                f"{self.store.uri(links[0])} is of another form (sharded or not) than this attempt writes: "
                "keep the number of processes and fsdp_config of the first attempt"
            )

    def present(self):
        """The keys of all checkpoints that are there, whole or not."""
        folder = f"{self.prefix}/checkpoints/"
        tops = {name.removeprefix(folder).split("/", 1)[0] for name, _ in self.store.list(folder)}
        return {folder + top for top in tops if parse(top)}

    def prune(self, keep, settled):
        """Delete all but the newest `keep` of the checkpoints that are not newer than the linked one; return the keys of those kept and of those deleted.

        Only `settled` ones are deleted: the engine may still be looking for the others, and waits until it finds them.
        """
        key = self.linked()
        newest = parse(key) if key else None
        if newest is None:
            return [], []
        folder = f"{self.prefix}/checkpoints/"
        objects = {}
        for name, _ in self.store.list(folder):
            top = name.removeprefix(folder).split("/", 1)[0]
            objects.setdefault(top, []).append(name)
        steps = sorted(
            ((parse(top)[1], top) for top in objects if parse(top) and parse(top)[1] <= newest[1]), reverse=True,
        )
        old = [top for _, top in steps[keep:] if folder + top != key and folder + top in settled]
        for top in old:
            self.store.delete(objects[top])
        return [folder + top for _, top in reversed(steps) if top not in old], [folder + top for top in old]

    def export(self, step):
        """Where the export of a step lies and its bytes; refuses one that is not whole."""
        folder = f"{self.prefix}/hf_checkpoints/huggingface/ba{step}"
        sizes = {key.removeprefix(f"{folder}/"): size for key, size in self.store.list(f"{folder}/")}
        needed = {"config.json"}
        index = self.store.read(f"{folder}/model.safetensors.index.json")
        if index is None:
            needed.add("model.safetensors")
        else:
            needed.update(json.loads(index)["weight_map"].values())
        missing = sorted(name for name in needed if not sizes.get(name))
        if missing:
            raise Unavailable(f"the export at {self.store.uri(folder)} lacks {', '.join(missing[:5])}")
        return self.store.uri(folder), sum(sizes.values())
