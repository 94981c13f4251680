"""Figures of throughput."""

LOGGED = []


def log_metrics(total_elapsed_time, total_gen_tokens, avg_speed, additional_metrics=None):
    LOGGED.append((total_elapsed_time, total_gen_tokens, avg_speed, additional_metrics))
