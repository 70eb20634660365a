"""FedAvg as a user of Flower writes it: a ClientApp that trains a plain PyTorch model, and Flower's own strategy."""

import logging
import tempfile
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from kdlib.errors import KdlibError
from kdlib.paper.bench import plain
from kdlib.settings.experiment import from_json
from kdlib.settings.shared import Selecting
from kdlib.store.names import private
from kdlib.store.store import Store

client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """A client's epochs on its part, from the weights that the message brings."""
    asked = message.content["config"]
    (Path(str(asked["calls"])) / f"{context.node_id}-{time.time_ns()}").touch()
    experiment = from_json(str(asked["experiment"]))
    assert isinstance(experiment, Selecting)
    torch.set_num_threads(experiment.threads)
    name = experiment.client_names[int(context.node_config["partition-id"])]
    own = Store(str(asked["store"])).get(private(name, "data"))
    model = plain.model(experiment, name)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    batches = max(1, experiment.local_epochs * len(own["y"]) // experiment.batch)
    plain.train(experiment, model, own["x"], own["y"], experiment.batch, batches)
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()),
                          "metrics": MetricRecord({"num-examples": len(own["y"])})})
    return Message(content=content, reply_to=message)


def rounds(experiment: Selecting, store: Store, workers: int) -> tuple[float, float]:
    """Seconds before the first client begins, and from there to the end of the last round; so many at a time."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    server, ended = ServerApp(), []
    with tempfile.TemporaryDirectory() as calls:

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=experiment.clients,
                              min_available_nodes=experiment.clients)
            asked = ConfigRecord({"experiment": experiment.model_dump_json(), "store": str(store.root),
                                  "calls": calls})
            result = strategy.start(grid=grid, num_rounds=experiment.rounds, train_config=asked,
                           initial_arrays=ArrayRecord(plain.model(experiment, "client-0000").state_dict()))
            ended.extend([time.time()] if len(result.train_metrics_clientapp) == experiment.rounds else [])

        clock = time.time()
        run_simulation(server, client, experiment.clients, backend_config={
            "init_args": {"num_cpus": workers}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
        called = [call.stat().st_mtime for call in Path(calls).iterdir()]
    if not ended or len(called) != experiment.rounds * experiment.clients:
        raise KdlibError(f"Flower called {len(called)} clients, not {experiment.clients} in each of "
                         f"{experiment.rounds} rounds; its messages above say why")
    return min(called) - clock, ended[0] - min(called)
