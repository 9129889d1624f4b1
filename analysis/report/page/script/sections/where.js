// 3. Which layers and heads, which steps and which positions suffer.
import {standingOut, usualBudget, usualPolicy} from '../charts/policies.js';
import {headCells, headMapSpec, headsCsv, positionsCsv, positionsSpec, stepsCsv, stepsSpec} from '../charts/where.js';
import {whyMissing} from '../data.js';
import {chooser, element, notice, slider} from '../elements.js';
import {figure} from '../figure.js';
import {sentence} from '../format.js';
import {PolicyPicker} from '../policy_picker.js';

const policyChoices = (run) => run.policies.map((policy, p) => ({value: p, label: policy.shown}));

function headMaps(run) {
  const metrics = run.where.by_head;
  const b = usualBudget(run);
  const choice = {p: usualPolicy(run, 'output_error', b), b};
  const titleOf = (metric) =>
      sentence(`${metric.title} of ${run.policies[choice.p].shown} at ${run.budgets[choice.b].text}`);
  const second = metrics.find((metric) => metric.name === 'kept_share') ??
      metrics.find((metric) => metric.name === 'retained_mass') ?? metrics[1];
  const shown = [metrics.find((metric) => metric.name === 'output_error') ?? metrics[0], second].filter(
      (metric, i, all) => metric && all.indexOf(metric) === i);
  const maps = shown.map((start, i) => {
    let metric = start;
    const chart = figure({
      name: `layer_head_${i + 1}`,
      title: titleOf(metric),
      canvas: true,
      controls: metrics.length > 1 ? [chooser(
                                         'Metric', metrics.map((one) => ({value: one, label: one.title})), metric,
                                         (value) => {
                                           metric = value;
                                           chart.setTitle(titleOf(metric));
                                           chart.redraw();
                                         })] :
                                     [],
      build: (options) => headMapSpec(run, {metric: metric.name, ...choice}, options),
      describe: () => `Map of layers and heads: ${titleOf(metric)}.`,
      csv: () => headsCsv(run, metric.name),
    });
    return {
      root: chart.root,
      // The colours mean the same at every budget of a policy, so the slider only replaces cells.
      moved: () => {
        chart.setTitle(titleOf(metric));
        chart.replace('cells', headCells(run, metric.name, choice.p, choice.b));
      },
      changed: () => {
        chart.setTitle(titleOf(metric));
        chart.redraw();
      },
    };
  });
  return [
    element(
        'div', {class: 'card'},
        element(
            'div', {class: 'controls'},
            chooser(
                'Policy', policyChoices(run), choice.p,
                (p) => {
                  choice.p = p;
                  maps.forEach((map) => map.changed());
                },
                {'data-control': 'map-policy'}),
            run.budgets.length > 1 ? slider(
                                         'Budget', run.budgets.map((budget) => budget.text), choice.b,
                                         (place) => {
                                           choice.b = place;
                                           maps.forEach((map) => map.moved());
                                         }) :
                                     null),
        element('p', {class: 'note'}, 'Bright cells hurt most. Colours keep their meaning while the slider moves.')),
    element('div', {class: maps.length > 1 ? 'pair' : null}, maps.map((map) => map.root)),
  ];
}

function lines(run) {
  const {by_step: bySteps, by_position: byPositions} = run.where;
  if (!bySteps && !byPositions) return [];
  const choice = {b: usualBudget(run), step: bySteps?.metrics[0]?.name, what: byPositions?.lost ? 'lost' : 'evicted'};
  const charts = [];
  const redraw = () => charts.forEach((chart) => chart.redraw());
  const picker =
      new PolicyPicker(run.policies.map((policy) => policy.shown), () => standingOut(run, 'output_error'), redraw);
  if (bySteps && bySteps.metrics.length > 0) {
    const chart = figure({
      name: 'error_by_step',
      title: 'By decode step',
      controls: [chooser(
          'Metric', bySteps.metrics.map((metric) => ({value: metric.name, label: metric.title})), choice.step,
          (name) => {
            choice.step = name;
            chart.redraw();
          })],
      build: (options) => stepsSpec(run, {metric: choice.step, b: choice.b, chosen: picker.chosen}, options),
      describe: () => `${choice.step} by decode step at a budget of ${run.budgets[choice.b].text}.`,
      csv: () => stepsCsv(run, choice.step),
    });
    charts.push(chart);
  }
  if (byPositions) {
    const kinds = [
      ...(byPositions.lost ? [{value: 'lost', label: 'attention lost on evicted entries'}] : []),
      {value: 'evicted', label: 'share of entries evicted'}
    ];
    const chart = figure({
      name: 'error_by_position',
      title: 'By position of the evicted entries',
      controls: kinds.length > 1 ? [chooser(
                                       'Shown', kinds, choice.what,
                                       (what) => {
                                         choice.what = what;
                                         chart.redraw();
                                       })] :
                                   [],
      build: (options) => positionsSpec(run, {what: choice.what, b: choice.b, chosen: picker.chosen}, options),
      describe: () => `What was evicted along the prompt at a budget of ${run.budgets[choice.b].text}.`,
      csv: () => positionsCsv(run),
    });
    charts.push(chart);
  }
  return [
    element(
        'div', {class: 'card'},
        run.budgets.length > 1 ? element(
                                     'div', {class: 'controls'},
                                     slider(
                                         'Budget', run.budgets.map((budget) => budget.text), choice.b,
                                         (place) => {
                                           choice.b = place;
                                           redraw();
                                         })) :
                                 null,
        picker.root),
    element('div', {class: charts.length > 1 ? 'pair' : null}, charts.map((chart) => chart.root)),
  ];
}

export function whereSection(report, run, r) {
  const why = (part) => whyMissing(report, 'where', part, r);
  if (!run.where) return [notice(why(null) ?? 'The run holds no detail by layer, head or step.')];
  const hasHeads = run.where.by_head?.length > 0;
  return [
    ...(hasHeads ? headMaps(run) : [notice(why('heads') ?? 'The run holds no detail by layer and head.')]),
    ...lines(run),
    run.where.by_step ? null : notice(why('steps') ?? 'The run holds no detail by decode step.'),
    run.where.by_position ? null : notice(why('positions') ?? 'The run holds no detail by position.'),
  ];
}
