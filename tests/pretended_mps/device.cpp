// A pretended MPS device, for tests on machines without Apple's GPU.
//
// Its tensors lie in ordinary memory but belong to `mps:0`. Operators reach one boxed kernel, which
// refuses what MPS refuses (64-bit floats, mixed devices), records what MPS would be slow at, and
// computes on the CPU. Autograd, autocast, views and `.to()` are torch's own. The numbers are the
// CPU's, so faults of real MPS appear only if they are planted.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <unordered_map>

namespace {
const c10::Device kDevice(c10::DeviceType::MPS, 0);
// `recommended_max_memory` of a Mac with 16 GB.
const size_t kRecommended = 11453246464;

using Counts = std::map<std::string, long>;

// What happened on the device, by operator.
struct Records {
  std::mutex mutex;
  Counts calls, fallbacks, syncs, host_indices;
  std::map<std::string, std::set<std::string>> shapes;
  // False while an operator runs that is one kernel on MPS, and several on the CPU.
  std::atomic<bool> active{true};
} records;

// The autograd engine runs backward passes in a thread of its own.
std::atomic<size_t> live{0}, peak{0}, limit{0};
std::set<std::string> lacking;
std::string fault;
// Of the operator whose results go wrong once another shape has been seen.
std::string last_shape;
std::set<std::string> known_shapes;

void count_bytes(size_t bytes) {
  size_t now = (live += bytes), highest = peak;
  while (now > highest && !peak.compare_exchange_weak(highest, now)) {
  }
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::MPS; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(MPS, Guard)

void release_block(void* block) { std::free(block); }

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* block = bytes ? std::malloc(bytes) : nullptr;
    return {block, block, &release_block, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_block; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Allocator allocator;

// Draws other numbers than the CPU's generator of the same seed, as MPS does.
struct DeviceGenerator final : at::CPUGeneratorImpl {
  explicit DeviceGenerator(uint64_t seed) : at::CPUGeneratorImpl(seed ^ kOther) {}
  void set_current_seed(uint64_t seed) override { CPUGeneratorImpl::set_current_seed(seed ^ kOther); }
  static constexpr uint64_t kOther = 0x5DEECE66D;
};

const at::Generator& device_generator() {
  static at::Generator generator = at::make_generator<DeviceGenerator>(c10::default_rng_seed_val);
  return generator;
}
}  // namespace

namespace at {
struct MPSHooks final : MPSHooksInterface {
  MPSHooks(MPSHooksArgs = {}) {}
  void init() const override {}
  bool hasMPS() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  bool isOnMacOSorNewer(unsigned, unsigned) const override { return true; }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return device_generator(); }
  Generator getNewGenerator(DeviceIndex) const override {
    return make_generator<DeviceGenerator>(c10::default_rng_seed_val);
  }
  c10::Allocator* getMPSDeviceAllocator() const override { return &allocator; }
  void deviceSynchronize() const override {}
  void commitStream() const override {}
  void emptyCache() const override {}
  size_t getCurrentAllocatedMemory() const override { return live; }
  size_t getDriverAllocatedMemory() const override { return live; }
  size_t getRecommendedMaxMemory() const override { return kRecommended; }
  void setMemoryFraction(double share) const override { limit = size_t(share * double(kRecommended)); }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  Device getDeviceFromPtr(void*) const override { return kDevice; }
};
C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, MPSHooks)
}  // namespace at

namespace {
void release_storage(void* held) {
  auto* storage = static_cast<c10::Storage*>(held);
  live -= storage->nbytes();
  delete storage;
}

// The memory of a storage on the CPU, as memory of the device.
c10::DataPtr as_device_memory(const c10::Storage& storage) {
  size_t bytes = storage.nbytes();
  if (limit && live + bytes > limit) {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "MPS backend out of memory (MPS allocated: ", live.load(),
                     ", max allowed: ", limit.load(), "). Tried to allocate ", bytes);
  }
  count_bytes(bytes);
  return {const_cast<void*>(storage.data()), new c10::Storage(storage), &release_storage, kDevice};
}

void refuse_64_bits(c10::ScalarType type) {
  TORCH_CHECK_TYPE(type != at::kDouble && type != at::kComplexDouble, "Cannot convert a MPS Tensor to ", type,
                   " dtype as the MPS framework doesn't support it. Please use float32 instead.");
}

// One operator call: its arguments as CPU tensors over the same memory, and its results moved back.
class Call {
 public:
  at::Tensor to_cpu(const at::Tensor& tensor) {
    for (auto& [device, cpu] : tensors_) {
      if (device.is_same(tensor)) return cpu;
    }
    auto* impl = tensor.storage().unsafeGetStorageImpl();
    auto known = on_cpu_.find(impl);
    if (known == on_cpu_.end()) {
      c10::DataPtr data(impl->mutable_data(), c10::Device(c10::DeviceType::CPU));
      c10::Storage storage(c10::Storage::use_byte_size_t(), impl->nbytes(), std::move(data),
                           c10::GetAllocator(c10::DeviceType::CPU), true);
      on_device_.emplace(storage.unsafeGetStorageImpl(), tensor.storage());
      known = on_cpu_.emplace(impl, std::move(storage)).first;
    }
    auto cpu = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(known->second), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    copy_layout(tensor, cpu);
    tensors_.emplace_back(tensor, cpu);
    return cpu;
  }

  void keep_on_cpu(const at::Tensor& tensor) { host_.push_back(tensor); }

  at::Tensor to_device(const at::Tensor& result) {
    if (!result.defined()) return result;
    for (auto& [device, cpu] : tensors_) {
      if (cpu.is_same(result)) return device;
    }
    for (auto& tensor : host_) {
      if (tensor.is_same(result)) return result;
    }
    refuse_64_bits(result.scalar_type());
    auto* impl = result.storage().unsafeGetStorageImpl();
    auto known = on_device_.find(impl);
    if (known == on_device_.end()) {
      c10::Storage storage(c10::Storage::use_byte_size_t(), impl->nbytes(),
                           as_device_memory(result.storage()), &allocator, true);
      known = on_device_.emplace(impl, std::move(storage)).first;
    }
    auto& storage = known->second;
    at::Tensor device;
    for (auto& [argument, cpu] : tensors_) {
      // A view is an inference tensor only if its base is one.
      if (argument.storage().unsafeGetStorageImpl() == storage.unsafeGetStorageImpl()) {
        device = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(storage),
                                                          argument.key_set(), result.dtype());
      }
    }
    if (!device.defined()) {
      device = at::detail::make_tensor<c10::TensorImpl>(
          c10::Storage(storage), c10::DispatchKeySet(c10::DispatchKey::MPS), result.dtype());
    }
    copy_layout(result, device);
    return device;
  }

  // Arguments that an in-place operator or an `out` variant has resized.
  void update_arguments() {
    for (auto& [impl, cpu] : on_cpu_) {
      if (cpu.data() != impl->data()) {
        impl->set_data_ptr_noswap(as_device_memory(cpu));
        impl->set_nbytes(cpu.nbytes());
      }
    }
    for (auto& [device, cpu] : tensors_) {
      device.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
    }
  }

 private:
  static void copy_layout(const at::Tensor& from, const at::Tensor& to) {
    to.unsafeGetTensorImpl()->set_sizes_and_strides(from.sizes(), from.strides(), from.storage_offset());
    if (from.is_conj()) to._set_conj(true);
    if (from.is_neg()) to._set_neg(true);
  }

  std::unordered_map<c10::StorageImpl*, c10::Storage> on_cpu_;     // by the device's storage
  std::unordered_map<c10::StorageImpl*, c10::Storage> on_device_;  // by the CPU's storage
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;
  std::vector<at::Tensor> host_;
};

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

// What is known of an operator before it is called.
struct Operator {
  explicit Operator(const c10::FunctionSchema& schema)
      : name(schema.name()),
        full(name + (schema.overload_name().empty() ? "" : "." + schema.overload_name())),
        is_native(starts_with(full, "aten::")),
        plain(is_native ? full.substr(6) : full),
        is_copy(name == "aten::copy_" || name == "aten::_copy_from" || name == "aten::_copy_from_and_resize"),
        is_index(starts_with(name, "aten::index") || name == "aten::_index_put_impl_") {}

  // A torch built without MPS picks other names of the convolution, which MPS has.
  bool is_lacking() const {
    return !is_native || (lacking.count(plain) && !starts_with(plain, "convolution_"));
  }
  bool reads_values() const {
    return name == "aten::_local_scalar_dense" || name == "aten::nonzero" || name == "aten::masked_select" ||
           name == "aten::equal";
  }

  std::string name, full;
  bool is_native;
  std::string plain;
  bool is_copy, is_index;
};

at::Tensor take(Call& call, const Operator& op, const at::Tensor& tensor, const std::string& argument,
                std::ostringstream& shapes) {
  if (!tensor.defined()) return tensor;
  shapes << tensor.scalar_type() << tensor.sizes() << (tensor.is_contiguous() ? "" : "s") << ' ';
  if (tensor.device().type() == c10::DeviceType::MPS) return call.to_cpu(tensor);
  if (!op.is_copy && tensor.dim() > 0) {
    TORCH_CHECK(op.is_index,
                "Expected all tensors to be on the same device, but found at least two devices, mps:0 and ",
                tensor.device(), "! (", op.full, ", argument ", argument, ")");
    std::lock_guard<std::mutex> lock(records.mutex);
    records.host_indices[op.plain]++;
  }
  call.keep_on_cpu(tensor);
  return tensor;
}

void take_all(Call& call, const Operator& op, const c10::FunctionSchema& schema, torch::jit::Stack* stack,
              std::ostringstream& shapes) {
  size_t count = schema.arguments().size(), base = stack->size() - count;
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[base + i];
    const auto& name = schema.arguments()[i].name();
    if (value.isTensor()) {
      value = take(call, op, value.toTensor(), name, shapes);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> taken;
      for (const at::Tensor item : value.toTensorList()) taken.push_back(take(call, op, item, name, shapes));
      value = taken;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> taken;
      for (const std::optional<at::Tensor> item : value.toOptionalTensorList()) {
        if (item.has_value() && item->defined()) {
          taken.push_back(take(call, op, *item, name, shapes));
        } else {
          taken.push_back(std::nullopt);
        }
      }
      value = taken;
    } else if (value.isDevice() && value.toDevice().type() == c10::DeviceType::MPS) {
      value = c10::Device(c10::DeviceType::CPU);
    } else if (name == "generator" && value.isNone()) {
      value = device_generator();
    } else if (name == "dtype" && value.isInt()) {
      refuse_64_bits(static_cast<c10::ScalarType>(value.toInt()));
    }
  }
}

// The planted faults. Each has been reported of real MPS, in one version of torch or another.

// A transposed weight is read as if its rows were contiguous.
void misread_weight(torch::jit::Stack* stack, size_t base) {
  auto weight = (*stack)[base + 1].toTensor();
  if (weight.is_contiguous()) return;
  (*stack)[base + 1] = at::as_strided(weight, weight.sizes(), {weight.size(1), 1}, weight.storage_offset());
}

// Inner dimension of a matrix product, 0 for other operators.
int64_t inner_dimension(const std::string& name, const torch::jit::Stack& stack, size_t base) {
  if (name == "aten::mm" || name == "aten::bmm" || name == "aten::linear") return stack[base].toTensor().size(-1);
  if (name == "aten::addmm" || name == "aten::baddbmm") return stack[base + 1].toTensor().size(-1);
  return 0;
}

// Whether an activation's gradient is asked for in a shape that was seen before another one.
bool returns_to_a_shape(const std::string& name, const std::string& shape) {
  if (name != "aten::silu_backward" && name != "aten::gelu_backward") return false;
  auto key = name + shape;
  bool returns = known_shapes.count(key) && last_shape != key;
  known_shapes.insert(key);
  // The result is wrong from now on.
  if (!returns) last_shape = key;
  return returns;
}

void damage(const at::Tensor& result, const std::string& kind, const at::Tensor& input) {
  if (kind == "nan in masked softmax") {
    if (result.dim() > 1 && input.is_floating_point() && input.numel() && input.min().item<float>() < -1e30f) {
      result.view({-1, result.size(-1)})[-1].fill_(std::numeric_limits<float>::quiet_NaN());
    }
  } else {
    result.mul_(1.25);
  }
}

// Computes an operator whose arguments lie on the CPU by now.
void compute(const c10::OperatorHandle& op, const std::string& name, size_t base, torch::jit::Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  c10::impl::ExcludeDispatchKeyGuard no_cast(c10::autocast_dispatch_keyset);
  auto& dispatcher = c10::Dispatcher::singleton();
  if (name == "aten::convolution_overrideable") {
    dispatcher.findSchemaOrThrow("aten::convolution", "").callBoxed(stack);
  } else if (name == "aten::convolution_backward_overrideable") {
    auto weight = (*stack)[base + 2].toTensor();
    bool transposed = (*stack)[base + 6].toBool();
    int64_t groups = (*stack)[base + 8].toInt();
    std::vector<int64_t> bias{transposed ? weight.size(1) * groups : weight.size(0)};
    stack->insert(stack->begin() + base + 3, c10::IValue(bias));
    dispatcher.findSchemaOrThrow("aten::convolution_backward", "").callBoxed(stack);
  } else if (name == "aten::linear_backward") {
    // MPS has `linear` undivided; the CPU has no backward kernel for it.
    auto rows = (*stack)[base].toTensor(), upstream = (*stack)[base + 1].toTensor();
    auto weight = (*stack)[base + 2].toTensor();
    auto needed = (*stack)[base + 3].toBoolList();
    auto flat = upstream.reshape({-1, upstream.size(-1)});
    at::Tensor rows_gradient, weight_gradient, bias_gradient;
    if (needed[0]) rows_gradient = at::matmul(upstream, weight);
    if (needed[1]) weight_gradient = at::mm(flat.t(), rows.reshape({-1, rows.size(-1)}));
    if (needed[2]) bias_gradient = flat.sum(0);
    stack->resize(base);
    for (auto& gradient : {rows_gradient, weight_gradient, bias_gradient}) stack->push_back(gradient);
  } else {
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
}

void kernel(const c10::OperatorHandle& handle, torch::jit::Stack* stack) {
  const auto& schema = handle.schema();
  Operator op(schema);
  Call call;
  size_t base = stack->size() - schema.arguments().size();
  std::ostringstream shapes;
  bool reads = op.reads_values();
  if (op.is_copy) {
    // From the device to the host, in either order of arguments.
    const auto& first = (*stack)[base].toTensor();
    const auto& second = (*stack)[base + 1].toTensor();
    const auto& target = op.name == "aten::copy_" ? first : second;
    reads = target.defined() && target.device().is_cpu();
  }
  take_all(call, op, schema, stack, shapes);
  if (records.active) {
    std::lock_guard<std::mutex> lock(records.mutex);
    records.calls[op.plain]++;
    records.shapes[op.plain].insert(shapes.str());
    if (op.is_lacking()) records.fallbacks[op.plain]++;
    if (reads) records.syncs[op.plain]++;
  }
  if (op.is_lacking()) {
    TORCH_WARN("The operator '", op.full,
               "' is not currently supported on the MPS backend and will fall back to run on the CPU. "
               "This may have performance implications.");
  }
  std::string damaged;
  at::Tensor input;
  if (!fault.empty()) {
    if (fault == "transposed linear" && op.name == "aten::linear") misread_weight(stack, base);
    if (fault == "wide product" && inner_dimension(op.name, *stack, base) >= 32768) damaged = fault;
    if (fault == "gradient after another shape" && returns_to_a_shape(op.name, shapes.str())) damaged = fault;
    if (fault == "nan in masked softmax" && op.name == "aten::_softmax") {
      damaged = fault;
      input = (*stack)[base].toTensor();
    }
  }
  compute(handle, op.name, base, stack);
  if (!damaged.empty()) damage((*stack)[base].toTensor(), damaged, input);
  call.update_arguments();
  for (size_t i = base; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.to_device(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> moved;
      for (const at::Tensor item : value.toTensorList()) moved.push_back(call.to_device(item));
      value = moved;
    }
  }
}

// As on MPS: one kernel of its own without a graph, else matrix products.
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const std::optional<at::Tensor>& mask, double dropout, bool causal,
                     std::optional<double> scale, bool grouped) {
  bool has_graph = at::GradMode::is_enabled() && (query.requires_grad() || key.requires_grad() || value.requires_grad());
  if (!has_graph) {
    std::ostringstream shapes;
    for (auto* tensor : {&query, &key, &value}) shapes << tensor->scalar_type() << tensor->sizes() << ' ';
    if (mask) shapes << mask->scalar_type() << mask->sizes();
    std::lock_guard<std::mutex> lock(records.mutex);
    records.calls["_scaled_dot_product_attention_math_for_mps"]++;
    records.shapes["_scaled_dot_product_attention_math_for_mps"].insert(shapes.str());
  }
  records.active = has_graph;
  auto mixed = std::get<0>(
      at::_scaled_dot_product_attention_math(query, key, value, mask, dropout, causal, std::nullopt, scale, grouped));
  records.active = true;
  if (fault == "attention of one query" && query.size(-2) == 1 && key.size(-2) % 32) {
    // It attends past the end of the keys.
    return mixed.add(mixed.abs().mean(), 0.5);
  }
  return mixed;
}
TORCH_LIBRARY_IMPL(aten, MPS, library) { library.impl("scaled_dot_product_attention", &attention); }
TORCH_LIBRARY_IMPL(aten, AutogradMPS, library) { library.impl("scaled_dot_product_attention", &attention); }

TORCH_LIBRARY_IMPL(_, MPS, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&kernel>()); }
}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  c10::SetAllocator(c10::DeviceType::MPS, &allocator);
  // Operators without a kernel on MPS, and those with one that would otherwise be composed of others.
  module.def("configure", [](std::set<std::string> without, std::vector<std::string> own) {
    lacking = std::move(without);
    static auto* library =
        new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::MPS, __FILE__, __LINE__);
    for (auto& name : own) library->impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&kernel>());
  });
  module.def("set_limit", [](size_t bytes) { limit = bytes; });
  module.def("limit", [] { return limit.load(); });
  module.def("plant", [](std::string name) {
    fault = std::move(name);
    last_shape.clear();
    known_shapes.clear();
  });
  module.def("reset", [] {
    std::lock_guard<std::mutex> lock(records.mutex);
    for (auto* counts : {&records.calls, &records.fallbacks, &records.syncs, &records.host_indices}) counts->clear();
    records.shapes.clear();
    peak = live.load();
  });
  module.def("records", [] {
    std::lock_guard<std::mutex> lock(records.mutex);
    pybind11::dict result;
    result["calls"] = records.calls;
    result["fallbacks"] = records.fallbacks;
    result["syncs"] = records.syncs;
    result["host_indices"] = records.host_indices;
    Counts shapes;
    for (auto& [name, own] : records.shapes) shapes[name] = long(own.size());
    result["shapes"] = shapes;
    result["live"] = live.load();
    result["peak"] = peak.load();
    return result;
  });
}
