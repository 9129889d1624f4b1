// 7. What eviction is worth to a server.
import {columnOf, costRows, costSpec, frontierSpec, kvBudgetSpec, latencies, loadSpec, overTimeSpec, planCsv} from '../charts/plan.js';
import {checkbox, chooser, element} from '../elements.js';
import {figure} from '../figure.js';
import {inUnit, number, visible} from '../format.js';
import {tableCard} from '../table.js';

const few = 20;
const titles = {
  predicted_kl: 'predicted damage (KL)',
  slo_met: 'objective met'
};

/// Frontiers of one deployment at several rates are told apart by the rate.
function placeOf(plan, one) {
  const rate = columnOf(plan, 'rate')?.values[one.rows[0]] ?? null;
  const alike = plan.frontiers.filter((other) => other.title === one.title).length > 1;
  return visible(one.title) + (alike && rate !== null ? `, ${number(rate)} requests per second` : '');
}

/// One chart for all frontiers; it begins with the last one, of the highest rate.
function frontiers(plan) {
  if (plan.frontiers.length === 0) return [];
  let shown = plan.frontiers[plan.frontiers.length - 1];
  let wanted = shown.measures[0].error;
  const measure = () => shown.measures.find((one) => one.error === wanted) ?? shown.measures[0];
  const title = () => `Throughput against ${measure().title}: ${placeOf(plan, shown)}`;
  const measures = new Map(plan.frontiers.flatMap((one) => one.measures).map((one) => [one.error, one.title]));
  const chart =
      figure({
        name: 'frontier',
        title,
        note: () => `Filled points are the frontier: nobody serves more at no more ${measure().title}.${
            shown.oracle.includes(true) ? ' Diamonds are oracles, which see the future: they stand outside.' : ''}`,
        controls: [
          plan.frontiers.length > 1 ?
              chooser(
                  'Deployment', plan.frontiers.map((one) => ({value: one, label: placeOf(plan, one)})), shown,
                  (one) => {
                    shown = one;
                    chart.redraw();
                  },
                  {'data-control': 'frontier'}) :
              null,
          measures.size > 1 ? chooser(
                                  'Quality', [...measures].map(([value, label]) => ({value, label})), wanted,
                                  (error) => {
                                    wanted = error;
                                    chart.redraw();
                                  },
                                  {'data-control': 'frontier-measure'}) :
                              null
        ],
        build: (options) => frontierSpec(plan, shown, measure(), options),
        describe: () => `${title()}, ${shown.rows.length} deployments.`,
        csv: () => planCsv(plan, shown.rows),
      });
  return [chart.root];
}

function load(plan) {
  const kinds = latencies(plan);
  if (plan.loads.length === 0 || kinds.length === 0) return [];
  const promised = kinds.find((kind) => plan.slo.some((slo) => slo.column === kind.column));
  const choice = {column: (promised ?? kinds.find((kind) => kind.column === 'ttft_p99') ?? kinds[0]).column, log: true};
  const change = (what) => {
    Object.assign(choice, what);
    chart.redraw();
  };
  const chart = figure({
    name: 'latency_against_load',
    title: 'Latency against load',
    note: plan.slo.length > 0 ?
        'Filled marks meet the objective; the dashed line is its limit, where this latency has one.' :
        '',
    controls: [
      chooser(
          'Latency', kinds.map((kind) => ({value: kind.column, label: kind.title})), choice.column,
          (column) => change({column}), {'data-control': 'latency'}),
      checkbox('logarithmic latency', true, (log) => change({log}))
    ],
    build: (options) => loadSpec(plan, choice, options),
    describe: () => 'Latency against requests per second.',
    csv: () => planCsv(plan, plan.loads.flatMap((one) => one.rows)),
  });
  return [chart.root];
}

function overTime(plan) {
  if (plan.over_time.length === 0) return [];
  let shown = plan.over_time[0];
  const csv = () => ({
    columns: ['seconds', 'kv_tokens', 'running', 'waiting'],
    rows: shown.seconds.map((second, i) => [second, shown.kv_tokens[i], shown.running[i], shown.waiting[i]])
  });
  const charts = [['kv', 'KV use over time'], ['batch', 'Running and waiting over time']].map(
      ([what, title]) => figure({
        name: `${what}_over_time`,
        title,
        note: () => plan.shown[shown.row],
        build: (options) => overTimeSpec(plan, shown, what, options),
        describe: () => `${title} of ${plan.shown[shown.row]}.`,
        csv,
      }));
  const chosen = plan.over_time.length > 1 ?
      element(
          'div', {class: 'controls'},
          chooser(
              'Deployment', plan.over_time.map((one) => ({value: one, label: plan.shown[one.row]})), shown,
              (one) => {
                shown = one;
                charts.forEach((chart) => chart.redraw());
              },
              {'data-control': 'over-time'})) :
      null;
  return [chosen, element('div', {class: 'pair'}, charts.map((chart) => chart.root))];
}

function kvBudgets(plan) {
  return plan.kv_budgets.map(
      (one, i) =>
          figure({
            name: `kv_budget_${i + 1}`,
            title: `Where the memory of one GPU goes: ${visible(one.title)}`,
            build: (options) => kvBudgetSpec(one, options),
            describe: () => `Waterfall of memory: ${
                one.lines.map((line) => `${line.shown} ${number(line.bytes / 1024 ** 3)} GiB`).join(', ')}.`,
            csv: () => ({
              columns: ['part', 'bytes', 'note'],
              rows:
                  [...one.lines.map((line) => [line.name, line.bytes, line.note]), ['keys and values', one.total, null]]
            }),
          }).root);
}

function cost(plan) {
  if (!plan.costs || !columnOf(plan, plan.costs.tokens)) return [];
  const choice = {price: 2};
  const title = () => `Cost of a million output tokens at ${number(choice.price)} per GPU hour`;
  const table = element('div', {});
  const input =
      element('input', {type: 'number', min: '0', step: '0.1', value: String(choice.price), 'data-control': 'price'});
  const others = ['predicted_kl', 'output_error', 'slo_met'].filter((name) => columnOf(plan, name));
  const showTable = () => table.replaceChildren(tableCard({
    name: 'cost_by_deployment',
    title: title(),
    rows: costRows(plan, choice.price)
              .map(
                  ({row, cost: amount}) =>
                      [plan.shown[row], amount,
                       ...[plan.costs.tokens, plan.costs.gpus, ...others].map(
                           (name) => columnOf(plan, name).values[row])]),
    columns: [
      {name: 'deployment', long: true}, {
        name: 'per million tokens',
        csv: 'cost_per_million_tokens',
        number: true,
        show: (amount) => amount.toFixed(amount < 1 ? 4 : 2)
      },
      {name: 'tokens per second', csv: 'output_tokens_per_second', number: true, show: number},
      {name: 'GPUs', csv: 'gpus', number: true, show: number}, ...others.map((name) => columnShown(plan, name))
    ],
  }));
  const chart = figure({
    name: 'cost',
    title,
    note: `The ${few} cheapest. The price is in your currency; it counts GPUs only.`,
    controls: [element('label', {}, 'Price of a GPU hour', input)],
    build: (options) => costSpec(plan, {price: choice.price, limit: few}, options),
    csv: () => ({
      columns: ['deployment', 'cost_per_million_tokens'],
      rows: costRows(plan, choice.price).map(({row, cost: amount}) => [plan.labels[row], amount])
    }),
  });
  input.addEventListener('input', () => {
    const price = Number(input.value);
    if (!Number.isFinite(price) || price < 0 || input.value === '') return;
    choice.price = price;
    chart.redraw();
    showTable();
  });
  showTable();
  return [chart.root, table];
}

/// A column of the plan as a column of a table.
function columnShown(plan, name) {
  const column = columnOf(plan, name);
  const isFlag = name === 'slo_met' || name === 'frontier';
  const show = (value) => {
    if (isFlag) return value === null ? 'n/a' : value === 1 ? 'yes' : 'no';
    return typeof value === 'string' ? visible(value) : inUnit(value, column.unit === 'bytes' ? 'bytes' : '');
  };
  return {
    name: titles[name] ?? name.replaceAll('_', ' '),
    csv: name,
    number: !isFlag && column.values.some((value) => typeof value === 'number'),
    show
  };
}

function rowsTable(plan) {
  const names = [
    'predicted_kl', 'output_error', 'frontier', 'rate', 'output_tokens_per_second', 'goodput', 'ttft_mean', 'ttft_p99',
    'tpot_mean', 'tpot_p99', 'e2e_mean', 'batch_mean', 'kv_peak_tokens', 'preemptions', 'slo_met', 'status'
  ].filter((name) => columnOf(plan, name));
  return tableCard({
    name: 'plan_rows',
    title: 'Every deployment',
    note: 'All columns are in plan.csv.',
    columns: [{name: 'deployment', long: true}, ...names.map((name) => columnShown(plan, name))],
    rows: plan.shown.map((shown, row) => [shown, ...names.map((name) => columnOf(plan, name).values[row])]),
  });
}

export const planSection = (plan) =>
    [...frontiers(plan), ...load(plan), ...overTime(plan), ...kvBudgets(plan), ...cost(plan), rowsTable(plan)];
