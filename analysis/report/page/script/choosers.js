// Controls that several sections offer for a run.
import {chooser, slider} from './elements.js';

/// Moves over the run's budgets; null where there is one. `changed` gets the budget's index.
export const budgetSlider = (run, b, changed) =>
    (run.budgets.length > 1 ? slider('Budget', run.budgets.map((budget) => budget.text), b, changed) : null);

/// Chooses among policies, all of the run or those at the indices `among`; `changed` gets a place in that list.
export const policyChooser = (run, place, changed, control, among = run.policies.map((_, p) => p)) => chooser(
    'Policy', among.map((p, i) => ({value: i, label: run.policies[p].shown})), place, changed,
    {'data-control': control});

export const metricChooser = (label, metrics, name, changed, attributes = {}) =>
    chooser(label, metrics.map((metric) => ({value: metric.name, label: metric.title})), name, changed, attributes);
