// 1. What was asked, what came out, and the best policy at every budget.
import {boundsTitle, defaultMetric, metricOf, metricsWithValues} from '../charts/policies.js';
import {metricChooser} from '../choosers.js';
import {numbers} from '../data.js';
import {element} from '../elements.js';
import {bytes, inUnit, visible} from '../format.js';
import {tableCard} from '../table.js';

function tiles(report) {
  const made = [];
  const tile = (figure, words) => made.push(element(
      'div', {class: 'tile'}, element('b', {class: figure.length > 14 ? 'name' : null}, figure),
      element('span', {}, words)));
  const one = (count, name) => (count === 1 ? name : `${name}s`);
  for (const run of report.runs) {
    const prompt = run.sequences.reduce((sum, sequence) => sum + sequence.prompt_length, 0);
    const decoded = run.sequences.reduce((sum, sequence) => sum + sequence.decode_rows, 0);
    tile(visible(run.model || 'unnamed'), 'model');
    tile(`${run.policies.length} × ${run.budgets.length}`, 'policies × budgets');
    tile(
        String(run.sequences.length),
        `${one(run.sequences.length, 'sequence')}: ${prompt.toLocaleString('en')} prompt and ${
            decoded.toLocaleString('en')} decoded tokens`);
    const kept = metricOf(run, 'kept_bytes');
    const full = run.policies.findIndex((policy) => policy.kind === 'full');
    const most =
        kept && full >= 0 ? Math.max(...numbers(kept.values).row(full).filter((value) => value !== null)) : -Infinity;
    if (most > 0) tile(bytes(most), 'keys and values of the full cache');
  }
  for (const plan of report.plans)
    tile(String(plan.rows), `${one(plan.rows, 'deployment')} simulated in ${plan.shownName}`);
  return element('div', {class: 'tiles'}, made);
}

/// The best policy at each budget, by a metric that can be chosen.
function bestTable(run) {
  const candidates = metricsWithValues(run, 'quality').filter((metric) => run.best?.[metric.name]?.length > 0);
  if (candidates.length === 0) return [];
  const names = (policies) => policies.map((p) => run.policies[p].shown).join(' = ');
  const holder = element('div', {});
  const show = (name) => {
    const metric = metricOf(run, name);
    const bounded = run.best[name].some((best) => best.low !== null);
    const columns = [
      {name: 'budget'}, {name: 'best policy', long: true},
      {name: metric.title, number: true, csv: name, show: (value) => inUnit(value, '')},
      ...(bounded ? [{name: boundsTitle(metric), csv: 'interval'}] : []), {name: 'next', long: true},
      {name: 'its value', number: true, csv: 'next_value', show: (value) => inUnit(value, '')},
      {name: 'apart?', csv: 'apart'}
    ];
    const rows = run.best[name].map(
        (best) =>
            [run.budgets[best.budget].text, names([best.policy, ...(best.ties ?? [])]), best.value,
             ...(bounded ? [best.low === null ? null : `${inUnit(best.low, '')} to ${inUnit(best.high, '')}`] : []),
             best.next === null ? null : names([best.next]), best.next_value,
             best.next === null      ? null :
                 best.apart === null ? 'one sequence: cannot say' :
                 best.apart          ? 'yes' :
                                       'no']);
    holder.replaceChildren(tableCard({
      name: `best_${name}`,
      title: `Best policy per budget by ${metric.title}`,
      columns,
      rows,
      note: [
        'Oracles and the full cache stand outside; “=” joins policies of exactly the same value.',
        '“Apart” says whether best and next differ beyond noise over sequences.', metric.note
      ].filter(Boolean)
                .join(' ')
    }));
  };
  const first = candidates.find((metric) => metric.name === defaultMetric(run)) ?? candidates[0];
  show(first.name);
  return [
    candidates.length > 1 ?
        element(
            'div', {class: 'controls'},
            metricChooser('Judged by', candidates, first.name, show, {'data-control': 'judged-by'})) :
        null,
    holder
  ];
}

export function summarySection(report) {
  const {asked = [], sentences = [], caveat = ''} = report.summary ?? {};
  return [
    tiles(report),
    element(
        'div', {class: 'card'},
        element('ul', {class: 'sentences'}, sentences.map((sentence) => element('li', {}, visible(sentence)))),
        caveat ? element('p', {class: 'caveat'}, visible(caveat)) : null),
    asked.length > 0 ? element(
                           'div', {class: 'card'}, element('h3', {}, 'What was asked'),
                           element('ul', {}, asked.map((line) => element('li', {}, visible(line))))) :
                       null,
    ...report.runs.flatMap(bestTable),
  ];
}
