"""Read shards with webdataset alone, without davss: pairs of sound and lip features.

python examples/read_shards.py [MANIFEST [STORAGE]]
"""

import io
import json
import sys

import numpy as np
import pandas
import soundfile
import webdataset

arguments = [*sys.argv[1:], *("data/shards/voxceleb2/test.parquet", "storage")[len(sys.argv) - 1 :]]
manifest, storage = arguments
urls = [f"{storage}/{shard}" for shard in pandas.read_parquet(manifest).shard]
for sample in webdataset.WebDataset(urls, shardshuffle=False):
    audio, rate = soundfile.read(io.BytesIO(sample["audio.flac"]), dtype="float32")  # (T,)
    lips = np.load(io.BytesIO(sample["lips.npy"]), allow_pickle=False)  # (V, D), 25 a second
    speaker = json.loads(sample["meta.json"])["speaker"]
    print(sample["__key__"], audio.shape, rate, lips.shape, speaker)
