// 2. Every policy against its budget, or against the bytes it keeps.
import {curvesCsv, curvesSpec, readsBetterInLog} from '../charts/curves.js';
import {metricOf, metricsWithValues, standingOut} from '../charts/policies.js';
import {numbers, whyMissing} from '../data.js';
import {checkbox, chooser, element, notice} from '../elements.js';
import {figure} from '../figure.js';
import {sentence} from '../format.js';
import {PolicyPicker} from '../policy_picker.js';

export function curvesSection(report, run, r) {
  const metrics = metricsWithValues(run, 'quality');
  if (metrics.length === 0)
    return [notice(whyMissing(report, 'curves', null, r) ?? 'No metric of quality has a value.')];
  const first = metrics.find((metric) => metric.name === 'output_error') ?? metrics[0];
  const kept = metricOf(run, 'kept_bytes');
  const hasBytes = kept !== null && numbers(kept.values).values.some((value) => value > 0);
  const choice = {
    metric: first.name,
    against: 'budget',
    xLog: false,
    yLog: readsBetterInLog(run, first.name),
    bands: true,
    onlyChosen: false
  };
  const titleOf = () =>
      sentence(`${metricOf(run, choice.metric).title} against ${choice.against === 'bytes' ? 'bytes kept' : 'budget'}`);
  const noteOf = () => {
    const metric = metricOf(run, choice.metric);
    const parts =
        [metric.better === null ?
             '' :
             `${
                 metric.better === 'lower' ? 'Lower' :
                                             'Higher'} is better. The broad line and filled marks are the Pareto front${
                 choice.against === 'budget' ? '; crosses keep more than their budget' : ''}.`];
    if (choice.bands && metric.interval !== null) parts.push(`Bands: 95 % intervals over ${metric.interval}.`);
    if (choice.bands && metric.interval === null) parts.push('No interval is known for this metric.');
    if (choice.yLog) parts.push('Zeros have no place on the logarithmic axis and are left out.');
    return parts.filter(Boolean).join(' ');
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
    chart.setTitle(titleOf());
    chart.setNote(noteOf());
    picker.update();
    chart.redraw();
  };
  const chart = figure({
    name: 'error_budget_curves',
    title: titleOf(),
    note: noteOf(),
    controls: [
      chooser(
          'Metric', metrics.map((metric) => ({value: metric.name, label: metric.title})), first.name,
          (value) => change({metric: value}), {'data-control': 'metric'}),
      hasBytes ?
          chooser(
              'Against', [{value: 'budget', label: 'budget'}, {value: 'bytes', label: 'bytes kept in HBM'}], 'budget',
              (value) => change({against: value, xLog: value === 'bytes'}), {'data-control': 'against'}) :
          null,
      logY,
      logX,
      checkbox('bands', true, (on) => change({bands: on})),
      checkbox('only the coloured', false, (on) => change({onlyChosen: on})),
    ].filter(Boolean),
    build: (options) => curvesSpec(run, {...choice, chosen: picker.chosen, onlyChosen: choice.onlyChosen}, options),
    describe: () => `${titleOf()}: ${run.policies.length} policies at ${run.budgets.length} budgets; in colour ${
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
  const absent = report.missing.filter((entry) => entry.section === 'curves' && entry.part && (entry.run ?? r) === r);
  return [chart.root, ...absent.map((entry) => notice(`Not shown: ${entry.why}`))];
}
