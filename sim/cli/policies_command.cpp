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
#include "sim/cli/plugin_option.h"
#include "sim/cli/policy_skeleton.h"

namespace evictsim {
namespace {

using policies::ParameterSpec;
using policies::Part;

constexpr const char* grammar = R"text(A policy is a name with parameters; parts nest, and any of them can be swapped.

  snapkv                                        a policy with its defaults
  snapkv(window=32,kernel=7,pool=max)           parameters
  adakv(snapkv(window=32),alpha=0.3)            an allocator around a policy: who gets how much
  adakv(pyramidkv(beta=5))                      two: the pyramid over layers, Ada-KV over the heads of each
  caote(snapkv(window=32))                      an outer scorer around a policy: its scores become others
  adakv(caote(snapkv()))                        both
  knorm(schedule=every(steps=8))                another schedule: when to cut
  tova(schedule=once)                           parentheses may be left out
  infokv(schedule=rpc)                          a preset's own choice of that name comes before the schedules
  keydiff(protection=sinks(count=4),protection=recent(count=32))   what may never go; protections add up
  snapkv(window=32)@host(page=16)               a placement: where entries go that are cut, instead of away
  snapkv(budget=0.2)                            a budget of its own, whatever --budget says
  locret(weights=heads.h5:/locret)              weights from a group of an HDF5 file
  compose(scorer=key_norm(),allocator=uniform(),schedule=once())   the full form, as `evictsim policies NAME` prints it
  score: mean(attention, window=32) * norm(v) ^ 0.5                a formula as a scorer (docs/formulas.md)
  formula(expression='-norm(k)',schedule=every(steps=8))           the same as a part, with others
  kvpress:SnapKVPress(window_size=16,kernel_size=7)                a press as kvpress writes it

  call       = name [ "(" [ argument { "," argument } ] ")" ] [ "@" placement ]
  argument   = call | key "=" value          positional before named; only what works around a policy takes one
  value      = number | true | false | word | 'quoted text' | call

Every policy takes allocator=, schedule=, protection= (several times), placement= (or @) and budget=. Lists are
separated by commas outside parentheses; `all` is every policy. --plugin FILE.so adds policies; `evictsim policies new
NAME` starts one.
)text";

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
  for (const char* kind : {"scorer", "oracle", "allocator", "schedule", "protection", "placement", "preset"}) {
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
  if (needs.output_weights) all.emplace_back("W_O");
  if (needs.layer_input) all.emplace_back("what enters each layer");
  if (needs.second_pass) all.emplace_back("a second pass over the context");
  for (const traces::PacketSet set : traces::packet_sets) {
    const traces::PacketContents& packets = needs.packets[static_cast<std::size_t>(set)];
    const auto part = [&](bool needed, const char* what) {
      if (needed) all.push_back(fmt::format("{} packets/{}", what, traces::to_string(set)));
    };
    part(packets.rows, "k, v of");
    part(packets.queries, "q of");
    part(packets.after, "the rows behind");
  }
  for (const traces::Channel channel : needs.channels) all.push_back(fmt::format("the channel {}", to_string(channel)));
  for (const std::string& kind : needs.spans) all.push_back(fmt::format("spans \"{}\"", kind));
  for (const std::string& parameter : needs.parameters) all.push_back(fmt::format("the parameter {}", parameter));
  return policies::join(all);
}

/// The policy that `part` stands for when it is used alone, if it can be.
std::optional<policies::Policy> alone(const Part& part) {
  if (part.is_schedule() || part.is_protection() || (part.is_placement() && !part.is_policy)) return std::nullopt;
  const bool around_another = part.is_allocator() || part.is_outer_scorer() || part.is_outer_preset();
  if (around_another && part.default_policy.empty()) return std::nullopt;
  return policies::parse_policy(part.name);
}

void explain(const std::string& name) {
  if (name.find_first_of("(:@ ") != std::string::npos) {  // a composition rather than a name
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

/// `evictsim policies new NAME`.
CLI::App* add_new_command(CLI::App& policies) {
  struct Options {
    std::string name;
    std::string directory = ".";
    bool scorer = false;
    bool allocator = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = policies.add_subcommand("new", "Write the file of a new policy, and its test, to start from");
  command->add_option("NAME", options->name, "lower-case letters, digits and _")->required();
  CLI::Option* scorer = command->add_flag("--scorer", options->scorer, "what is kept (default)");
  command->add_flag("--allocator", options->allocator, "how the budget is split over layers and heads")
      ->excludes(scorer);
  command->add_option("--directory", options->directory, "Source tree to write into (default: here)")->type_name("D");
  command->callback([options] {
    const PolicySkeleton skeleton = write_policy_skeleton(
        options->allocator ? SkeletonKind::allocator : SkeletonKind::scorer, options->name, options->directory);
    fmt::print("Wrote {} and {}.\nAdd\n", skeleton.source.string(), skeleton.test.string());
    for (const std::string& line : skeleton.lines_to_add) fmt::print("  {}\n", line);
    fmt::print("A plug-in needs neither line: docs/plugins.md.\n");
  });
  return command;
}

}  // namespace

void add_policies_command(CLI::App& app) {
  struct Options {
    std::string name;
    bool parts = false;
    bool grammar = false;
    std::vector<std::string> plugins;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("policies", "List the eviction policies, or explain one");
  command->add_option("NAME", options->name, "a policy, a part, or a composition in quotes");
  command->add_flag("--parts", options->parts, "list the parts that policies are made of");
  command->add_flag("--grammar", options->grammar, "show how policies are written and combined");
  add_plugin_option(*command, options->plugins);
  CLI::App* create = add_new_command(*command);
  command->callback([options, create] {
    if (create->parsed()) return;
    load_plugins(options->plugins);
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
