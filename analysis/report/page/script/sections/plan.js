// 7. What eviction is worth to a server.
import {columnOf, costRows, costSpec, frontierSpec, kvBudgetSpec, latencies, loadSpec, overTimeSpec, planCsv} from '../charts/plan.js';
import {checkbox, chooser, element, notice} from '../elements.js';
import {figure} from '../figure.js';
import {inUnit, number, visible} from '../format.js';
import {tableCard} from '../table.js';

const few = 20;

/// Frontiers of one deployment at several rates are told apart by the rate.
function titleOf(plan, one) {
  const rate = columnOf(plan, 'rate')?.values[one.rows[0]] ?? null;
  const alike = plan.frontiers.filter((other) => other.title === one.title).length > 1;
  return `Throughput against error: ${visible(one.title)}${
      alike && rate !== null ? `, ${number(rate)} requests per second` : ''}`;
}

function frontiers(plan) {
  return plan.frontiers.map((one, i) => figure({
                                          name: `frontier_${i + 1}`,
                                          title: titleOf(plan, one),
                                          note: 'Filled points are the frontier: nobody serves more at no more error.',
                                          build: (options) => frontierSpec(plan, one, options),
                                          describe: () => `Throughput against error of ${one.rows.length} deployments.`,
                                          csv: () => planCsv(plan, one.rows),
                                        }).root);
}

function load(plan) {
  const kinds = latencies(plan);
  if (plan.loads.length === 0 || kinds.length === 0) return [];
  const choice = {
    column: (kinds.find((kind) => plan.slo.some((slo) => slo.column === kind.column)) ??
             kinds.find((kind) => kind.column === 'ttft_p99') ?? kinds[0])
                .column,
    log: true
  };
  const chart = figure({
    name: 'latency_against_load',
    title: 'Latency against load',
    note: plan.slo.length > 0 ?
        'Filled marks meet the objective; the dashed line is its limit, where this latency has one.' :
        null,
    controls: [
      chooser(
          'Latency', kinds.map((kind) => ({value: kind.column, label: kind.title})), choice.column,
          (column) => {
            choice.column = column;
            chart.redraw();
          },
          {'data-control': 'latency'}),
      checkbox(
          'logarithmic latency', true,
          (on) => {
            choice.log = on;
            chart.redraw();
          })
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
  const table = element('div', {});
  const input =
      element('input', {type: 'number', min: '0', step: '0.1', value: String(choice.price), 'data-control': 'price'});
  const showTable = () => {
    const value = (name, row) => columnOf(plan, name)?.values[row] ?? null;
    const rows = costRows(plan, choice.price)
                     .map(
                         ({row, cost: amount}) =>
                             [plan.shown[row], amount, value(plan.costs.tokens, row), value(plan.costs.gpus, row),
                              value('output_error', row), value('slo_met', row)]);
    table.replaceChildren(tableCard({
      name: 'cost',
      title: `Cost of a million output tokens at ${number(choice.price)} per GPU hour`,
      rows,
      columns: [
        {name: 'deployment', long: true}, {
          name: 'per million tokens',
          csv: 'cost_per_million_tokens',
          number: true,
          show: (amount) => amount.toFixed(amount < 1 ? 4 : 2)
        },
        {name: 'tokens per second', csv: 'output_tokens_per_second', number: true, show: number},
        {name: 'GPUs', csv: 'gpus', number: true, show: number},
        {name: 'output error', csv: 'output_error', number: true, show: number},
        {name: 'objective met',
         csv: 'slo_met',
         show: (met) =>
             (met === null  ? 'none set' :
                  met === 1 ? 'yes' :
                              'no')}
      ],
    }));
  };
  const chart = figure({
    name: 'cost',
    title: 'Cost of a million output tokens',
    note: `The ${few} cheapest. The price is in your currency; it counts GPUs only.`,
    controls: [element('label', {}, 'Price of a GPU hour', input)],
    build: (options) => costSpec(plan, {price: choice.price, limit: few}, options),
    describe: () => `Cost of a million output tokens at ${choice.price} per GPU hour.`,
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

function rowsTable(plan) {
  const names = [
    'output_error', 'rate', 'output_tokens_per_second', 'goodput', 'ttft_mean', 'ttft_p99', 'tpot_mean', 'tpot_p99',
    'e2e_mean', 'batch_mean', 'kv_peak_tokens', 'preemptions', 'slo_met', 'status'
  ].filter((name) => columnOf(plan, name));
  return tableCard({
    name: 'plan_rows',
    title: 'Every deployment',
    note: 'All columns are in plan.csv.',
    columns: [
      {name: 'deployment', long: true}, ...names.map((name) => {
        const column = columnOf(plan, name);
        const isNumber = column.values.some((value) => typeof value === 'number');
        return {
          name: name.replaceAll('_', ' '),
          csv: name,
          number: isNumber,
          show: (value) =>
              (typeof value === 'string' ? visible(value) : inUnit(value, column.unit === 'bytes' ? 'bytes' : ''))
        };
      })
    ],
    rows: Array.from(
        {length: plan.rows}, (_, row) => [plan.shown[row], ...names.map((name) => columnOf(plan, name).values[row])]),
  });
}

export function planSection(report, plan, p) {
  const absent = report.missing.filter((entry) => entry.section === 'plan' && (entry.plan ?? p) === p);
  return [
    ...frontiers(plan), ...load(plan), ...overTime(plan), ...kvBudgets(plan), ...cost(plan), rowsTable(plan),
    ...absent.map((entry) => notice(`Not shown: ${entry.why}`))
  ];
}
