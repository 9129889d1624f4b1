#include "sim/cli/policies_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "policies/kvpress.h"
#include "policies/names.h"
#include "policies/policy.h"
#include "policies/registry.h"

namespace evictsim {
namespace {

using policies::ParameterSpec;
using policies::Part;

constexpr const char* grammar = R"(A policy is a name with parameters; any part of it can be swapped.

  snapkv                                        a policy with its defaults
  snapkv(window=32,kernel=7,pool=max)           parameters
  adakv(snapkv(window=32),alpha=0.3)            an allocator around a policy
  knorm(schedule=every(steps=8))                another schedule
  tova(schedule=once)                           parentheses may be left out
  keydiff(protection=sinks(count=4),protection=recent(count=32))
  snapkv(budget=0.2)                            a budget of its own, whatever --budget says
  compose(scorer=knorm(),allocator=uniform(),schedule=once())   the full form, as `evictsim policies NAME` prints it
  kvpress:SnapKVPress(window_size=16,kernel_size=7)             a press as kvpress writes it

Values: numbers, true or false, words, 'quoted text'. Lists are separated by commas; `all` is every policy.
)";

/// Prints rows in aligned columns; the last column is not padded.
void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (std::size_t column = 0; column < row.size(); ++column)
      widths[column] = std::max(widths[column], row[column].size());
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t column = 0; column < row.size(); ++column) {
      line += column + 1 < row.size() ? fmt::format("{:<{}}  ", row[column], widths[column]) : row[column];
    }
    fmt::print("{}\n", line);
  }
}

void list_policies() {
  std::vector<std::vector<std::string>> rows;
  for (const Part* part : policies::registered_parts()) {
    if (!part->is_policy) continue;
    rows.push_back({part->name, policies::parse_policy(part->name).is_oracle() ? "oracle" : "causal", part->sentence});
  }
  print_table(rows);
  fmt::print(
      "\n`evictsim policies NAME` explains one, `--parts` lists their parts, `--grammar` shows how to combine them.\n");
}

void list_parts() {
  std::vector<std::vector<std::string>> rows;
  for (const char* kind : {"scorer", "oracle", "allocator", "schedule", "protection", "preset"}) {
    for (const Part* part : policies::registered_parts()) {
      if (part->kind() == std::string_view(kind)) rows.push_back({part->kind(), part->name, part->sentence});
    }
  }
  print_table(rows);
}

std::string needs_text(const policies::Needs& needs) {
  std::vector<std::string> all = {"k, v, q of decode rows"};
  if (needs.all_queries) all.emplace_back("q of every prompt row");
  if (!needs.all_queries && needs.window_queries > 0) {
    all.push_back(needs.window_queries == 1 ? "q of the last prompt token"
                                            : fmt::format("q of the last {} prompt tokens", needs.window_queries));
  }
  if (needs.decode_attention) all.emplace_back("q of every decode row");
  return policies::join(all);
}

/// The policy that `part` stands for when it is used alone, if it can be.
std::optional<policies::Policy> alone(const Part& part) {
  if (part.is_schedule() || part.is_protection()) return std::nullopt;
  if (part.is_allocator() && part.default_policy.empty()) return std::nullopt;
  return policies::parse_policy(part.name);
}

void explain(const std::string& name) {
  if (name.find_first_of("(: ") != std::string::npos) {  // a composition rather than a name
    const policies::Policy policy = policies::parse_policy(name);
    print_table({{"policy", policy.name},
                 {"view", policy.is_oracle() ? "oracle: sees the decode rows evaluated" : "causal"},
                 {"needs", needs_text(policy.needs)},
                 {"expansion", policy.expansion}});
    return;
  }
  const Part& part = policies::find_part(name);
  fmt::print("{}: {}\n\n", part.name, part.sentence);
  std::vector<std::vector<std::string>> rows = {{"kind", part.kind()}, {"source", part.citation}};
  const auto policy = alone(part);
  if (policy) {
    rows.push_back({"view", policy->is_oracle() ? "oracle: sees the decode rows evaluated" : "causal"});
    rows.push_back({"needs", needs_text(policy->needs)});
    rows.push_back({"cuts", policy->never_cuts()                      ? "never"
                            : policy->schedule->cuts_while_decoding() ? "while decoding too"
                                                                      : "once, after the prompt"});
    rows.push_back(
        {"caches", policy->granularity == policies::Granularity::kv_head ? "one per KV head" : "one per query head"});
    rows.push_back({"expansion", policy->expansion});
  }
  print_table(rows);
  if (part.parameters.empty()) return;
  fmt::print("\nParameters\n");
  rows = {};
  for (const ParameterSpec& spec : part.parameters) {
    rows.push_back({"  " + spec.name, "default " + spec.default_value, spec.range(), spec.help});
  }
  print_table(rows);
}

}  // namespace

void add_policies_command(CLI::App& app) {
  struct Options {
    std::string name;
    bool parts = false;
    bool grammar = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("policies", "List the eviction policies, or explain one");
  command->add_option("NAME", options->name, "a policy, a part, or a composition in quotes");
  command->add_flag("--parts", options->parts, "list the parts that policies are made of");
  command->add_flag("--grammar", options->grammar, "show how policies are written and combined");
  command->callback([options] {
    if (options->grammar) {
      fmt::print("{}", grammar);
      fmt::print("Presses of kvpress: {}.\n", policies::join(policies::mapped_presses()));
    } else if (options->parts) {
      list_parts();
    } else if (options->name.empty()) {
      list_policies();
    } else {
      explain(options->name);
    }
  });
}

}  // namespace evictsim
