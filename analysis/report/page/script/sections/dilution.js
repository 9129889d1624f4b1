// 5. Where attention falls before and after eviction.
import {dilutionCsv, dilutionRows, dilutionSpec} from '../charts/dilution.js';
import {usualBudget} from '../charts/policies.js';
import {budgetSlider} from '../choosers.js';
import {checkbox} from '../elements.js';
import {figure} from '../figure.js';

const few = 16;

export function dilutionSection(run) {
  if (!run.dilution) return [];
  const choice = {b: usualBudget(run), all: false};
  const change = (what) => {
    Object.assign(choice, what);
    chart.redraw();
  };
  const title = () => `Attention on useful, distracting and sink tokens at ${run.budgets[choice.b].text}`;
  const chart = figure({
    name: 'dilution',
    title,
    note: `Useful: ${
        run.dilution.useful_is === 'evidence' ?
            'the annotated evidence spans' :
            'the entries with the largest future attention'}. Sorted by useful share; the first bar is the full cache.`,
    controls: [
      budgetSlider(run, choice.b, (b) => change({b})),
      dilutionRows(run, choice.b).length > few ? checkbox('all policies', false, (all) => change({all})) : null,
    ],
    build: (options) => dilutionSpec(run, {b: choice.b, limit: choice.all ? null : few}, options),
    describe: () => `${title()}: shares per policy, the full cache first.`,
    csv: () => dilutionCsv(run),
  });
  return [chart.root];
}
