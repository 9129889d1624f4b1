// 3. Which layers and heads, which steps and which positions suffer.
import {standingOut, usualBudget, usualPolicy} from '../charts/policies.js';
import {headCells, headMapSpec, headsCsv, positionsCsv, positionsSpec, stepsCsv, stepsSpec} from '../charts/where.js';
import {budgetSlider, metricChooser, policyChooser} from '../choosers.js';
import {chooser, element} from '../elements.js';
import {figure} from '../figure.js';
import {sentence} from '../format.js';
import {PolicyPicker} from '../policy_picker.js';

function headMaps(run) {
  const metrics = run.where.by_head;
  const named = (name) => metrics.find((metric) => metric.name === name);
  const b = usualBudget(run);
  const choice = {p: usualPolicy(run, b), b};
  const first = named('output_error') ?? metrics[0];
  const second = named('kept_share') ?? named('retained_mass') ?? metrics[1];
  const maps = [...new Set([first, second])].filter(Boolean).map((start, i) => {
    let metric = start;
    const title = () => sentence(`${metric.title} of ${run.policies[choice.p].shown} at ${run.budgets[choice.b].text}`);
    const chart = figure({
      name: `layer_head_${i + 1}`,
      title,
      note: 'Bright cells hurt most.',
      canvas: true,
      controls:
          [metrics.length > 1 ? metricChooser(
                                    'Metric', metrics, metric.name,
                                    (name) => {
                                      metric = named(name);
                                      chart.redraw();
                                    }) :
                                null],
      build: (options) => headMapSpec(run, {metric: metric.name, ...choice}, options),
      describe: () => `Map of layers and heads: ${title()}.`,
      csv: () => headsCsv(run, metric.name),
    });
    return {
      chart,
      // The colours mean the same at every budget of a policy, so the slider only replaces cells.
      moved: () => chart.replace('cells', headCells(run, metric.name, choice.p, choice.b)),
    };
  });
  const change = (p) => {
    choice.p = p;
    maps.forEach(({chart}) => chart.redraw());
  };
  const move = (place) => {
    choice.b = place;
    maps.forEach(({moved}) => moved());
  };
  return [
    element(
        'div', {class: 'card steering'},
        element(
            'div', {class: 'controls'}, policyChooser(run, choice.p, change, 'map-policy'),
            budgetSlider(run, b, move))),
    element('div', {class: maps.length > 1 ? 'pair' : null}, maps.map(({chart}) => chart.root)),
  ];
}

function lines(run) {
  const {by_step: bySteps, by_position: byPositions} = run.where;
  const choice = {b: usualBudget(run), metric: bySteps?.metrics[0]?.name, what: byPositions?.lost ? 'lost' : 'evicted'};
  const charts = [];
  const redraw = () => charts.forEach((chart) => chart.redraw());
  const change = (what) => {
    Object.assign(choice, what);
    redraw();
  };
  const at = () => ` at ${run.budgets[choice.b].text}`;
  const picker = new PolicyPicker(run.policies.map((policy) => policy.shown), () => standingOut(run), redraw);
  if (choice.metric) {
    charts.push(figure({
      name: 'error_by_step',
      title: () => `By decode step${at()}`,
      controls: [metricChooser('Metric', bySteps.metrics, choice.metric, (metric) => change({metric}))],
      build: (options) => stepsSpec(run, {...choice, chosen: picker.chosen}, options),
      describe: () => `${choice.metric} by decode step${at()}.`,
      csv: () => stepsCsv(run, choice.metric),
    }));
  }
  if (byPositions) {
    const kinds = [
      {value: 'lost', label: 'attention lost on evicted entries'}, {value: 'evicted', label: 'share of entries evicted'}
    ];
    charts.push(figure({
      name: 'error_by_position',
      title: () => `By position of the evicted entries${at()}`,
      controls: [byPositions.lost ? chooser('Shown', kinds, choice.what, (what) => change({what})) : null],
      build: (options) => positionsSpec(run, {...choice, chosen: picker.chosen}, options),
      describe: () => `What was evicted along the prompt${at()}.`,
      csv: () => positionsCsv(run),
    }));
  }
  if (charts.length === 0) return [];
  const moves = budgetSlider(run, choice.b, (b) => change({b}));
  return [
    element('div', {class: 'card steering'}, moves ? element('div', {class: 'controls'}, moves) : null, picker.root),
    element('div', {class: charts.length > 1 ? 'pair' : null}, charts.map((chart) => chart.root)),
  ];
}

export function whereSection(run) {
  if (!run.where) return [];
  return [...(run.where.by_head?.length > 0 ? headMaps(run) : []), ...lines(run)];
}
