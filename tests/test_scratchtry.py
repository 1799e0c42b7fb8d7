import json, time, shutil
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import load_file
pytest_plugins = ("corpus_fixture",)
from wavfusion import train, evaluate, predict
from wavfusion.run import read_run

def test_scratch(made, short, tmp_path):
    t=time.time()
    exp = short(train__mode="scratch", model__modalities="[audio]", train__epochs=3)
    r = train.train(exp, made.data, tmp_path/"r")
    print("scratch", r["accuracy"], time.time()-t)
    run_ = read_run(tmp_path/"r")
    print(run_.features.audio)
    rec = predict.EmotionRecognizer.from_pretrained(tmp_path/"r")
    print(rec.predict(made.root/"clips/test00.mp4"))
    res, said = evaluate.evaluate(run_, made.data.part("test"), made.data.store, made.data.media)
    print(said.probabilities[0])

def test_live(made, short, tmp_path):
    a = train.train(short(train__epochs=3), made.data, tmp_path/"c")
    t=time.time()
    b = train.train(short(train__epochs=3, train__mode="live"), made.data, tmp_path/"l")
    print("live", time.time()-t)
    print((tmp_path/"c/history.csv").read_text(), (tmp_path/"l/history.csv").read_text())
    x, y = load_file(tmp_path/"c/model.safetensors"), load_file(tmp_path/"l/model.safetensors")
    print(max((x[k]-y[k]).abs().max() for k in x), a["nll"], b["nll"])

def test_concat(made, short, tmp_path):
    for i, kw in enumerate([dict(model__fusion="concat"), dict(model__modalities="[text]"), dict(model__modalities="[audio, video]"), dict(model__modalities="[text, video]"), dict(model__task_loss="balanced")]):
        t=time.time()
        r = train.train(short(train__epochs=1, **kw), made.data, tmp_path/str(i))
        print(kw, r["accuracy"], time.time()-t)
