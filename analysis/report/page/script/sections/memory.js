// 6. Bytes per tier, recall and churn.
import {barPolicies, memoryCsv, tierBarsSpec, tierStepsCsv, tierStepsSpec, trafficMetrics, trafficSpec} from '../charts/memory.js';
import {metricOf, metricsWithValues, usualBudget, usualPolicy} from '../charts/policies.js';
import {budgetSlider, policyChooser} from '../choosers.js';
import {numbers} from '../data.js';
import {element} from '../elements.js';
import {figure} from '../figure.js';
import {inUnit, sentence} from '../format.js';
import {tableCard} from '../table.js';

const few = 16;
const mostTraffic = 3;

function memoryTable(run, b) {
  const metrics =
      metricsWithValues(run, 'memory').filter((metric) => numbers(metric.values).values.some((value) => value > 0));
  const rows =
      run.policies.map((policy, p) => [policy.shown, ...metrics.map((metric) => numbers(metric.values).at(p, b))])
          .filter((row) => row.slice(1).some((value) => value !== null));
  return tableCard({
    name: 'memory',
    title: `Memory and traffic at ${run.budgets[b].text}`,
    rows,
    columns: [
      {name: 'policy', long: true},
      ...metrics.map((metric) => ({
                       name: metric.title,
                       csv: metric.name,
                       number: true,
                       show: (value) => inUnit(value, metric.unit === 'bytes' ? 'bytes' : '')
                     }))
    ],
  });
}

export function memorySection(run) {
  const traffic = trafficMetrics(run);
  if (!metricOf(run, 'kept_bytes') && traffic.length === 0) return [];
  const choice = {b: usualBudget(run)};
  const onHost = numbers(metricOf(run, 'host_bytes')?.values);
  choice.p = barPolicies(run, choice.b).find((p) => onHost?.at(p, choice.b) > 0) ?? usualPolicy(run, choice.b);
  const at = () => ` at ${run.budgets[choice.b].text}`;
  const table = element('div', {}, memoryTable(run, choice.b));
  const charts = [figure({
    name: 'bytes_per_tier',
    title: () => `Bytes per tier${at()}`,
    note:
        'At rest after the prompt\'s cut, all layers. Policies with a placement, and those on the front against bytes.',
    build: (options) => tierBarsSpec(run, {b: choice.b, policies: barPolicies(run, choice.b)}, options),
    csv: () => memoryCsv(run),
  })];
  if (run.memory?.steps && run.memory.hbm) {
    const steps = figure({
      name: 'bytes_over_steps',
      title: () => `Bytes per tier over decode steps${at()}`,
      note: () => run.policies[choice.p].shown,
      controls: [policyChooser(
          run, choice.p,
          (p) => {
            choice.p = p;
            steps.redraw();
          },
          'memory-policy')],
      build: (options) => tierStepsSpec(run, choice, options),
      describe: () => `Bytes of ${run.policies[choice.p].shown} over decode steps${at()}.`,
      csv: () => tierStepsCsv(run),
    });
    charts.push(steps);
  }
  for (const metric of traffic.filter((one) => one.group === 'memory').slice(0, mostTraffic)) {
    const title = metric.name === 'evictions_per_step' ? 'Churn: entries cut per step' : sentence(metric.title);
    charts.push(figure({
      name: metric.name,
      title: () => title + at(),
      note: `The ${few} policies with the most; those without any are left out.`,
      build: (options) => trafficSpec(run, {metric: metric.name, b: choice.b, limit: few}, options),
      csv: () => memoryCsv(run),
    }));
  }
  const moves = budgetSlider(run, choice.b, (b) => {
    choice.b = b;
    charts.forEach((chart) => chart.redraw());
    table.replaceChildren(memoryTable(run, b));
  });
  return [
    moves ? element('div', {class: 'card steering'}, element('div', {class: 'controls'}, moves)) : null,
    element('div', {class: 'pair'}, charts.map((chart) => chart.root)),
    table,
  ];
}
