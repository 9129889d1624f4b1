// Throughput, latency, KV use and cost of simulated servers.
import {bytes, inUnit, number, visible} from '../format.js';
import {look} from '../palette.js';
import {bars} from '../specs/bars.js';
import {frontier} from '../specs/frontier.js';
import {lineChart} from '../specs/line_chart.js';
import {waterfall} from '../specs/waterfall.js';

import {titled} from './policies.js';

export const columnOf = (plan, name) => plan.columns.find((column) => column.name === name) ?? null;
const value = (plan, name, row) => columnOf(plan, name)?.values[row] ?? null;
const titleOf = (name) => name.replaceAll('_', ' ');

/// Quality of a row as plans know it: [[title, text]], those that the plan has.
const qualities = (plan, row) => [['predicted damage (KL)', 'predicted_kl'], ['output error', 'output_error']]
                                     .filter(([, name]) => columnOf(plan, name))
                                     .map(([title, name]) => [title, number(value(plan, name, row))]);

/// one: a frontier of the plan; measure: {error, title, on} out of its measures.
export function frontierSpec(plan, one, measure, {theme, width}) {
  const throughput = columnOf(plan, one.throughput);
  const rows = one.rows.map(
      (row, i) => ({
        name: visible(`${value(plan, 'policy', row)} at ${value(plan, 'budget', row)}`),
        x: value(plan, measure.error, row),
        y: value(plan, one.throughput, row),
        on: measure.on[i],
        outside: one.oracle[i],
        tip: {
          title: plan.shown[row],
          lines: [
            [titleOf(one.throughput), inUnit(value(plan, one.throughput, row), throughput?.unit)],
            ...qualities(plan, row), ['time to first token, p99', inUnit(value(plan, 'ttft_p99', row), 's')],
            ['time per token, p99', inUnit(value(plan, 'tpot_p99', row), 's')],
            ['sequences per step', number(value(plan, 'batch_mean', row))],
            ['on the frontier',
             one.oracle[i]     ? 'oracle: outside' :
                 measure.on[i] ? 'yes' :
                                 'no']
          ]
        },
      }));
  return frontier({
    rows,
    xTitle: titled(measure),
    yTitle: throughput?.unit ? `${titleOf(one.throughput)} (${throughput.unit})` : titleOf(one.throughput),
    width,
    theme
  });
}

/// Latencies that a plan knows: [{column, title}].
export function latencies(plan) {
  const kinds = [['ttft', 'time to first token'], ['tpot', 'time per output token'], ['e2e', 'end to end']];
  return kinds.flatMap(
      ([kind, title]) => ['mean', 'p50', 'p90', 'p99']
                             .filter((statistic) => columnOf(plan, `${kind}_${statistic}`))
                             .map((statistic) => ({column: `${kind}_${statistic}`, title: `${title}, ${statistic}`})));
}

/// choice: {column, log}: one latency of every deployment against the rate.
export function loadSpec(plan, choice, {theme, width, paper}) {
  const title = latencies(plan).find((one) => one.column === choice.column).title;
  const rows = plan.loads.flatMap((load, s) => load.rows.map((row) => {
    const y = value(plan, choice.column, row);
    const x = value(plan, 'rate', row);
    return {
      s,
      x,
      y,
      star: value(plan, 'slo_met', row) === 1,
      tip: {
        title: plan.shown[row],
        lines: [
          ['requests per second', number(x)], [title, inUnit(y, 's')],
          ['tokens per second', number(value(plan, 'output_tokens_per_second', row))],
          ...(value(plan, 'slo_met', row) === null ?
                  [] :
                  [['objective met', value(plan, 'slo_met', row) === 1 ? 'yes' : 'no']])
        ]
      }
    };
  }));
  const rules = plan.slo.filter((slo) => slo.column === choice.column)
                    .map((slo) => ({y: slo.limit, label: `objective: ${number(slo.limit)} s`}));
  return lineChart({
    rows,
    series: plan.loads.map((load, s) => ({name: load.shown, look: s < 12 ? look(s, theme) : null})),
    rules,
    width,
    height: 300,
    theme,
    paper,
    legend: plan.loads.length > 1,
    x: {title: 'requests per second', nice: true},
    y: {title: `${title} (s)`, log: choice.log, zero: true, format: '~r'},
  });
}

/// KV tokens of one simulated run with the capacity line, or its batch and queue.
export function overTimeSpec(plan, one, what, {theme, width, paper}) {
  const kinds = what === 'kv' ? [['KV tokens', one.kv_tokens]] : [['running', one.running], ['waiting', one.waiting]];
  const rows = kinds.flatMap(
      ([name, values], s) =>
          values.map((y, i) => ({
                       s,
                       x: one.seconds[i],
                       y,
                       tip: {title: name, lines: [['second', number(one.seconds[i])], [name, number(y)]]},
                     })));
  const rules = what === 'kv' && one.kv_capacity ? [{y: one.kv_capacity, label: 'capacity'}] : [];
  return lineChart({
    rows,
    series: kinds.map(([name], s) => ({name, look: {...look(s, theme), dash: []}})),
    rules,
    width,
    height: 220,
    theme,
    paper,
    legend: kinds.length > 1,
    step: true,
    points: false,
    x: {title: 'simulated seconds', nice: false},
    y: {title: what === 'kv' ? 'KV tokens' : 'sequences', zero: true, format: '~s'},
  });
}

export function kvBudgetSpec(one, {theme, width}) {
  const gib = (amount) => amount / 1024 ** 3;
  return waterfall({
    lines:
        one.lines.map((line) => ({
                        name: line.shown,
                        value: gib(line.bytes),
                        label: bytes(line.bytes),
                        tip: {title: line.shown, lines: [['bytes', bytes(line.bytes)], ['', visible(line.note ?? '')]]}
                      })),
    total: {
      name: 'keys and values',
      value: gib(one.total),
      label: bytes(one.total),
      tip: {title: 'keys and values', lines: [['bytes', bytes(one.total)]]}
    },
    title: 'GiB of one GPU',
    format: '~f',
    width,
    theme,
  });
}

/// Cost of a million output tokens of every row, cheapest first: {row, cost}; rows without a throughput are left out.
export function costRows(plan, price) {
  return plan.shown
      .map((_, row) => {
        const gpus = value(plan, plan.costs.gpus, row);
        const tokens = value(plan, plan.costs.tokens, row);
        return {row, cost: gpus === null || !(tokens > 0) ? null : price * gpus / (tokens * 3600) * 1e6};
      })
      .filter((one) => one.cost !== null)
      .sort((a, b) => a.cost - b.cost);
}

export function costSpec(plan, {price, limit}, {theme, width}) {
  const rows = costRows(plan, price).slice(0, limit);
  return bars({
    rows: rows.map(({cost, row}) => ({
                     name: plan.shown[row],
                     part: 'cost',
                     value: cost,
                     tip: {
                       title: plan.shown[row],
                       lines: [
                         ['per million tokens', number(cost)],
                         ['tokens per second', number(value(plan, plan.costs.tokens, row))], ...qualities(plan, row)
                       ]
                     }
                   })),
    parts: [{name: 'cost', colour: theme.accent}],
    title: 'price per million tokens',
    format: '.3~g',
    width,
  });
}

/// Every column of some rows, as CSV.
export function planCsv(plan, rows = Array.from({length: plan.rows}, (_, row) => row)) {
  return {
    columns: plan.columns.map((column) => column.name),
    rows: rows.map((row) => plan.columns.map((column) => column.values[row]))
  };
}
