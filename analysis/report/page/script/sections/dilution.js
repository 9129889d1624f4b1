// 5. Where attention falls before and after eviction.
import {dilutionCsv, dilutionRows, dilutionSpec} from '../charts/dilution.js';
import {usualBudget} from '../charts/policies.js';
import {whyMissing} from '../data.js';
import {checkbox, element, notice, slider} from '../elements.js';
import {figure} from '../figure.js';

const few = 16;

export function dilutionSection(report, run, r) {
  if (!run.dilution)
    return [notice(whyMissing(report, 'dilution', null, r) ?? 'The run does not hold the mass on each set.')];
  const choice = {b: usualBudget(run), all: false};
  const titleOf = () => `Attention on useful, distracting and sink tokens at ${run.budgets[choice.b].text}`;
  const many = () => dilutionRows(run, choice.b).length > few;
  const chart = figure({
    name: 'dilution',
    title: titleOf(),
    note: `Useful: ${
        run.dilution.useful_is === 'evidence' ?
            'the annotated evidence spans' :
            'the entries with the largest future attention'}. Sorted by useful share; the first bar is the full cache.`,
    controls: [
      run.budgets.length > 1 ? slider(
                                   'Budget', run.budgets.map((budget) => budget.text), choice.b,
                                   (place) => {
                                     choice.b = place;
                                     chart.setTitle(titleOf());
                                     chart.redraw();
                                   }) :
                               null,
      many() ? checkbox(
                   'all policies', false,
                   (on) => {
                     choice.all = on;
                     chart.redraw();
                   }) :
               null,
    ].filter(Boolean),
    build: (options) => dilutionSpec(run, {b: choice.b, limit: choice.all ? null : few}, options),
    describe: () => `${titleOf()}: shares per policy, the full cache first.`,
    csv: () => dilutionCsv(run),
  });
  return [element('div', {}, chart.root)];
}
