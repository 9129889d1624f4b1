// Which part of the prompt each policy keeps.
import {numbers} from '../data.js';
import {percent} from '../format.js';
import {heatMap} from '../specs/heat_map.js';

import {standingOut, usualBudget, usualPolicy} from './policies.js';

const mostColumns = 120;
const mostRows = 12;

/// A policy that looks at positions only, which others are worth comparing with; -1 without one.
export const windowPlace = (run, tokens) =>
    tokens.policies.findIndex((p) => ['streaming_llm', 'window'].includes(run.policies[p].name));

/// Policies of the map: the best one, those that stand out, and a window; as indices into the axis of `tokens`.
export function mapRows(run, tokens) {
  const best = usualPolicy(run, usualBudget(run, tokens.budgets));
  const places = [best, ...standingOut(run)].map((p) => tokens.policies.indexOf(p));
  return [...new Set([...places, windowPlace(run, tokens)])].filter((i) => i >= 0).slice(0, mostRows);
}

/// Rows of the map: policies (indices into the axis of `tokens`) at one budget; the prompt is cut into at most 120
/// stretches.
export function survivalSpec(run, tokens, {policies, b}, {theme, width}) {
  const kept = numbers(tokens.kept);
  const stretches = Math.min(tokens.length, width < 480 ? 60 : mostColumns);
  if (stretches === 0 || policies.length === 0) return null;
  const edge = (k) => Math.floor(k * tokens.length / stretches);
  const columns = Array.from({length: stretches}, (_, k) => edge(k));
  const cells = policies
                    .flatMap((i) => {
                      const name = run.policies[tokens.policies[i]].shown;
                      return columns.map((begin, k) => {
                        const end = edge(k + 1);
                        let sum = 0;
                        let count = 0;
                        for (let e = begin; e < end; ++e) {
                          const share = kept.at(i, b, e);
                          if (share !== null) {
                            sum += share;
                            ++count;
                          }
                        }
                        const value = count === 0 ? null : sum / count;
                        return {
                          column: begin,
                          row: name,
                          value,
                          tip: {
                            title: name,
                            lines: [['tokens', `${begin} to ${end - 1}`], ['kept by', `${percent(value)} of heads`]]
                          }
                        };
                      });
                    })
                    .filter((cell) => cell.value !== null);
  if (cells.length === 0) return null;
  return heatMap({
    cells,
    columns,
    rows: policies.map((i) => run.policies[tokens.policies[i]].shown),
    columnTitle: 'position in the prompt',
    rowTitle: null,
    valueTitle: 'share of heads that keep it',
    domain: [0, 1],
    width,
    cellHeight: 20,
    theme,
    format: '~p',
    rowLimit: Math.min(180, Math.round(width * 0.3)),
  });
}
