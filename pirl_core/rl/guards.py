"""Signs that a run goes wrong, as pure functions of one iteration's metrics."""

import math

from pirl_core.params.sections import Supervision


def warnings(metrics: dict[str, float], best: float, limits: Supervision) -> list[str]:
    """One line for each sign of trouble. best: the best validation success so far."""
    found = []
    kl, ratio = metrics.get("losses/approx_kl", 0.0), metrics.get("losses/first_ratio_error", 0.0)
    if not kl <= limits.warn_kl:
        found.append(f"approx_kl {kl:.3g} exceeds {limits.warn_kl:g} (run.warn_kl)")
    if not ratio <= limits.warn_first_ratio_error:
        found.append(
            f"the first minibatch's ratio is {ratio:.3g} away from 1, more than {limits.warn_first_ratio_error:g} "
            "(run.warn_first_ratio_error): rollout and update disagree"
        )
    if metrics.get("charts/epochs", 1.0) < 1:
        found.append(
            f"rl.target_kl ended the update within its first epoch, after {metrics['charts/updates']:.0f} gradient "
            "steps: one goes too far; lower rl.actor_lr, or raise rl.minibatch_size"
        )
    fall = best - metrics.get("validation/success", math.inf)
    if fall > limits.warn_success_drop:
        found.append(
            f"validation success {metrics['validation/success']:.2f} is {fall:.2f} below its best, more than "
            f"{limits.warn_success_drop:g} (run.warn_success_drop)"
        )
    if metrics.get("charts/skipped_updates", 0) > 0:
        found.append(f"{metrics['charts/skipped_updates']:.0f} updates skipped: loss or gradient not finite")
    return found


def divergence(metrics: dict[str, float], best: float, limits: Supervision) -> str | None:
    """Why the run must stop, or None."""
    kl = metrics.get("losses/approx_kl", 0.0)
    if limits.stop_kl is not None and not kl <= limits.stop_kl:
        return f"approx_kl {kl:.3g} exceeds {limits.stop_kl:g} (run.stop_kl)"
    fall = best - metrics.get("validation/success", math.inf)
    if limits.stop_success_drop is not None and fall > limits.stop_success_drop:
        return (
            f"validation success {metrics['validation/success']:.2f} is {fall:.2f} below its best, more than "
            f"{limits.stop_success_drop:g} (run.stop_success_drop)"
        )
    return None
