// 2. Every policy against its budget, or against the bytes it keeps.
import {curvesCsv, curvesSpec, readsBetterInLog} from '../charts/curves.js';
import {defaultMetric, metricOf, metricsWithValues, standingOut} from '../charts/policies.js';
import {metricChooser} from '../choosers.js';
import {numbers} from '../data.js';
import {checkbox, chooser, element} from '../elements.js';
import {figure} from '../figure.js';
import {sentence} from '../format.js';
import {PolicyPicker} from '../policy_picker.js';

const bands = {
  sequences: 'Bands: 95 % intervals over sequences.',
  steps: 'Bands: 95 % intervals over steps.',
  calibration: 'Bands: those of the prediction, from its calibration.',
  null: 'No interval is known for this metric.'
};

export function curvesSection(run) {
  const metrics = metricsWithValues(run, 'quality');
  if (metrics.length === 0) return [];
  const kept = metricOf(run, 'kept_bytes');
  const hasBytes = kept !== null && numbers(kept.values).values.some((value) => value > 0);
  const choice = {
    metric: defaultMetric(run),
    against: 'budget',
    xLog: false,
    yLog: readsBetterInLog(run, defaultMetric(run)),
    bands: true,
    onlyChosen: false
  };
  const title = () =>
      sentence(`${metricOf(run, choice.metric).title} against ${choice.against === 'bytes' ? 'bytes kept' : 'budget'}`);
  const note = () => {
    const metric = metricOf(run, choice.metric);
    const better = metric.better === 'lower' ? 'Lower' : 'Higher';
    return [
      metric.better &&
          `${better} is better. The broad line and filled marks are the Pareto front${
              choice.against === 'budget' ? '; crosses keep more than their budget' : ''}.`,
      choice.bands && bands[metric.interval],
      choice.yLog && 'Zeros have no place on the logarithmic axis and are left out.', metric.note
    ].filter(Boolean)
        .join(' ');
  };
  const picker = new PolicyPicker(
      run.policies.map((policy) => policy.shown), () => standingOut(run, choice.metric, choice.against),
      () => chart.redraw());
  const logY = checkbox('logarithmic values', choice.yLog, (on) => change({yLog: on}));
  const logX = checkbox('logarithmic budget', choice.xLog, (on) => change({xLog: on}));
  const change = (what) => {
    Object.assign(choice, what);
    if (what.metric !== undefined) choice.yLog = readsBetterInLog(run, what.metric);
    logX.querySelector('input').checked = choice.xLog;
    logY.querySelector('input').checked = choice.yLog;
    picker.update();
    chart.redraw();
  };
  const chart = figure({
    name: 'error_budget_curves',
    title,
    note,
    controls: [
      metricChooser('Metric', metrics, choice.metric, (metric) => change({metric}), {'data-control': 'metric'}),
      hasBytes ? chooser(
                     'Against', [{value: 'budget', label: 'budget'}, {value: 'bytes', label: 'bytes kept in HBM'}],
                     'budget', (against) => change({against, xLog: against === 'bytes'}), {'data-control': 'against'}) :
                 null,
      logY,
      logX,
      checkbox('bands', true, (bands) => change({bands})),
      checkbox('only the coloured', false, (onlyChosen) => change({onlyChosen})),
    ],
    build: (options) => curvesSpec(run, {...choice, chosen: picker.chosen}, options),
    describe: () => `${title()}: ${run.policies.length} policies at ${run.budgets.length} budgets; in colour ${
        picker.chosen.map((p) => run.policies[p].shown).join(', ')}.`,
    csv: () => curvesCsv(run, choice.metric),
    clicked: (datum) => {
      if (datum.s !== undefined) picker.toggle(datum.s);
    },
    below: [
      element(
          'p', {class: 'note'},
          'In colour: policies on the Pareto front, and the best per budget. Press names, or click points, to isolate policies.'),
      picker.root
    ],
  });
  return [chart.root];
}
