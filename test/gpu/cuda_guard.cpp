// A CUDA device guard that does nothing, for a torch without CUDA: fake tensors may then say "cuda".
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

const c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;

const bool registered = [] {
  auto& slot = c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)];
  if (slot.load() == nullptr) slot.store(&guard);
  return true;
}();

}  // namespace
