"""Which clients take part in a round."""

from kdlib.experiment import FedAvg


def round_robin(experiment: FedAvg, round: int) -> tuple[str, ...]:
    """clients_per_round clients, in client order: architectures take turns, and within one its clients do.

    Turns run on from round to round, so over the rounds every client of an architecture is called equally often,
    give or take one. Every architecture is served in each round.
    """
    architectures = experiment.architectures
    groups = [[name for name in experiment.client_names if experiment.architecture_of(name) == architecture]
              for architecture in architectures]
    called = [0] * len(groups)
    for past in range(1, round + 1):
        chosen, turn = [], past - 1
        while len(chosen) < experiment.clients_per_round:
            group = groups[turn % len(groups)]
            fresh = group[called[turn % len(groups)] % len(group)]
            if fresh not in chosen:  # a small group may be exhausted before the round is full
                chosen.append(fresh)
                called[turn % len(groups)] += 1
            turn += 1
    return tuple(sorted(chosen))
