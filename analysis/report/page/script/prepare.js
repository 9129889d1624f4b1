// Makes a report ready to show: names without invisible characters, and lists where the writer may leave them out.
import {shorten, visible} from './format.js';

const shownNames = (names) => {
  const seen = new Map();
  return names.map((name) => {
    const text = shorten(visible(name), 60);
    const count = (seen.get(text) ?? 0) + 1;
    seen.set(text, count);
    return count === 1 ? text : `${text} (${count})`;
  });
};

/// Adds `shown` names to policies, plans' rows and their parts.
export function prepare(report) {
  report.missing ??= [];
  report.runs ??= [];
  report.plans ??= [];
  report.files ??= [];
  for (const run of report.runs) {
    run.shownName = visible(run.name);
    for (const budget of run.budgets) budget.text = visible(budget.text);
    const names = shownNames(run.policies.map((policy) => policy.name));
    run.policies.forEach((policy, p) => {
      policy.shown = names[p];
    });
  }
  for (const plan of report.plans) {
    plan.shownName = visible(plan.name);
    plan.shown = shownNames(plan.labels);
    for (const key of ['slo', 'frontiers', 'loads', 'over_time', 'kv_budgets']) plan[key] ??= [];
    for (const load of plan.loads) load.shown = visible(load.title);
    for (const one of plan.kv_budgets) {
      const lines = shownNames(one.lines.map((line) => line.name));
      one.lines.forEach((line, i) => {
        line.shown = lines[i];
      });
    }
  }
  return report;
}
